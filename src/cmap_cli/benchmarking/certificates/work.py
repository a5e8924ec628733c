"""The resumable loop of ``cmap certify``: noisy samples of several images per batch, one record per image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from cmap_cli.benchmarking.certificates.documents import CertificateRecord, RadiusDecision
from cmap_cli.benchmarking.certificates.procedure import Plan, Tally
from cmap_cli.data.dataset import Dataset
from cmap_cli.defenses.smoothing import NoisyClassifier, classify_blocks, noise_key, noisy_samples


@dataclass(slots=True)
class PendingCertificate:
    """One image with one noise level, while it is being sampled.

    Attributes:
        image: number of the image.
        pixels: the image, (C, H, W) in [0, 1].
        label: class of the image.
        key: key of its noise.
        tally: the votes of its samples.
        seconds: time spent on it.
    """

    image: int
    pixels: Tensor
    label: int
    key: int
    tally: Tally
    seconds: float = 0.0

    def observe(self, classes: Sequence[int]) -> None:
        """Count the classes of the next samples, one after the other, until no more are needed."""
        start = 0
        while start < len(classes) and (wanted := self.tally.wanted()):
            self.tally.observe(classes[start : start + wanted])
            start += wanted


@dataclass(frozen=True)
class Certification:
    """Everything that determines the records of a run.

    Attributes:
        dataset: the images, all labelled.
        classifier: the classifier of noisy images.
        sigmas: the noise levels.
        plan: the procedure.
        seed: seed of the noise.
        batch_size: samples per batch.
        device: where to compute.
    """

    dataset: Dataset
    classifier: NoisyClassifier
    sigmas: tuple[float, ...]
    plan: Plan
    seed: int
    batch_size: int
    device: torch.device

    def work(self) -> list[tuple[int, float]]:
        """(image, sigma) of every record, in their order."""
        return [(image, sigma) for image in range(len(self.dataset)) for sigma in self.sigmas]


def start_certificates(run: Certification, units: Sequence[tuple[int, float]]) -> Iterator[PendingCertificate]:
    """The certificates to decide, for each (image, sigma); each image is read once."""
    last, pixels, label = -1, torch.empty(0), 0
    for image, sigma in units:
        if image != last:
            batch = run.dataset.batch(image, image + 1)
            last, pixels, label = image, batch.x[0], int(batch.y[0])
        yield PendingCertificate(image, pixels, label, noise_key(pixels, sigma, run.seed), Tally(run.plan, sigma))


@dataclass(slots=True)
class SampleBatch:
    """Samples of several pending certificates that are classified together.

    Attributes:
        room: number of samples that can be added.
        counts: number of samples of each pending certificate in the batch.
    """

    room: int
    counts: list[tuple[PendingCertificate, int]] = field(default_factory=list)

    def add(self, pending: PendingCertificate, count: int) -> None:
        """Add samples of a pending certificate, at most as many as fit."""
        count = min(count, self.room)
        if count:
            self.counts.append((pending, count))
            self.room -= count

    def fill(self) -> None:
        """Fill the batch with further samples of each certificate; samples that are not needed are discarded."""
        share = self.room // max(1, len(self.counts))
        for place, (pending, count) in enumerate(self.counts):
            most = pending.tally.plan.selection + pending.tally.plan.samples - pending.tally.taken - count
            more = min(share, most)
            self.counts[place] = (pending, count + more)
            self.room -= more

    @property
    def size(self) -> int:
        """How many samples there are."""
        return sum(count for _, count in self.counts)


def certify_units(
    run: Certification,
    units: Sequence[tuple[int, float]],
    on_batch: Callable[[], object] | None = None,
    deadline: float | None = None,
) -> Iterator[CertificateRecord]:
    """Yield the record of each unit of work as soon as it is decided.

    A certificate counts its samples in their order, and no more than it needs, so its record does not depend on the
    other images of a batch.

    Args:
        run: the certification.
        units: (image, sigma), see :meth:`Certification.work`.
        on_batch: called after every batch of samples.
        deadline: time by ``time.monotonic()`` at which the work ends; images that are not decided then have no record.
    """
    waiting = start_certificates(run, units)
    active: list[PendingCertificate] = []
    exhausted = False
    while active or not exhausted:
        if deadline is not None and time.monotonic() >= deadline:
            return
        began = time.perf_counter()
        batch = SampleBatch(run.batch_size)
        for pending in active:
            batch.add(pending, pending.tally.wanted())
        while batch.room and not exhausted:
            started = next(waiting, None)
            if started is None:
                exhausted = True
            else:
                active.append(started)
                batch.add(started, started.tally.wanted())
        batch.fill()
        if batch.counts:
            classify_batch(run, batch, began)
            if on_batch is not None:
                on_batch()
        finished = [pending for pending in active if not pending.tally.wanted()]
        active = [pending for pending in active if pending.tally.wanted()]
        yield from (record_of(run, pending) for pending in finished)


def classify_batch(run: Certification, batch: SampleBatch, began: float) -> None:
    """Draw and classify a batch; add the classes and the share of the time to each pending certificate."""
    classes: dict[int, list[int]] = {}
    for shape in dict.fromkeys(pending.pixels.shape for pending, _ in batch.counts):
        alike = [(pending, count) for pending, count in batch.counts if pending.pixels.shape == shape]
        noisy = [
            noisy_samples(one.pixels, one.tally.sigma, one.key, range(one.tally.taken, one.tally.taken + count))
            for one, count in alike
        ]
        sigma = torch.cat([torch.full((count,), one.tally.sigma) for one, count in alike])
        found = iter(classify_blocks(run.classifier, torch.cat(noisy), sigma, run.device))
        classes |= {id(one): list(islice(found, count)) for one, count in alike}
    seconds = time.perf_counter() - began
    for pending, count in batch.counts:
        pending.observe(classes[id(pending)])
        pending.seconds += seconds * count / batch.size


def record_of(run: Certification, pending: PendingCertificate) -> CertificateRecord:
    """The record of a decided certificate."""
    tally = pending.tally
    assert tally.selected is not None
    return CertificateRecord(
        image=pending.image,
        index=run.dataset.indices[pending.image],
        key=run.dataset.keys[pending.image],
        label=pending.label,
        sigma=tally.sigma,
        selected=tally.selected,
        predicted=tally.predicted,
        radius=tally.radius,
        correct=tally.predicted == pending.label,
        lower=tally.lower,
        successes=tally.successes,
        trials=tally.trials,
        decisions=tuple(RadiusDecision(radius=radius, decision=each) for radius, each in tally.decisions.items()),
        seconds=round(pending.seconds, 4),
    )
