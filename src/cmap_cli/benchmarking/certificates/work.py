"""The resumable loop of ``cmap certify``: noisy samples of several images in one batch, one record for each image."""

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
class Job:
    """One image with one noise level, while it is being sampled.

    Attributes:
        image: its number.
        pixels: (C, H, W) in [0, 1].
        label: its class.
        key: of its noise.
        tally: the votes of its samples.
        seconds: spent on it.
    """

    image: int
    pixels: Tensor
    label: int
    key: int
    tally: Tally
    seconds: float = 0.0

    def observe(self, classes: Sequence[int]) -> None:
        """Take in the classes of the next samples, one after the other, until no more are wanted."""
        start = 0
        while start < len(classes) and (wanted := self.tally.wanted()):
            self.tally.observe(classes[start : start + wanted])
            start += wanted


@dataclass(frozen=True)
class Certification:
    """All that determines the records of a run.

    Attributes:
        dataset: the images, all labelled.
        classifier: the classifier of noisy images.
        sigmas: the noise levels.
        plan: the procedure.
        seed: of the noise.
        batch_size: samples that are worked on at once.
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


def start_jobs(run: Certification, units: Sequence[tuple[int, float]]) -> Iterator[Job]:
    """The jobs of (image, sigma), each image read once."""
    last, pixels, label = -1, torch.empty(0), 0
    for image, sigma in units:
        if image != last:
            batch = run.dataset.batch(image, image + 1)
            last, pixels, label = image, batch.x[0], int(batch.y[0])
        yield Job(image, pixels, label, noise_key(pixels, sigma, run.seed), Tally(run.plan, sigma))


@dataclass(slots=True)
class Batch:
    """Samples of several jobs that are classified together.

    Attributes:
        room: for more samples.
        counts: of samples, by job.
    """

    room: int
    counts: list[tuple[Job, int]] = field(default_factory=list)

    def add(self, job: Job, count: int) -> None:
        """Samples of a job, as many as there is room for."""
        count = min(count, self.room)
        if count:
            self.counts.append((job, count))
            self.room -= count

    def fill(self) -> None:
        """More samples of each job where there is room; those that turn out not to be wanted are forgotten."""
        share = self.room // max(1, len(self.counts))
        for place, (job, count) in enumerate(self.counts):
            most = job.tally.plan.selection + job.tally.plan.samples - job.tally.taken - count
            more = min(share, most)
            self.counts[place] = (job, count + more)
            self.room -= more

    @property
    def size(self) -> int:
        """How many samples there are."""
        return sum(count for _, count in self.counts)


def certify(
    run: Certification,
    units: Sequence[tuple[int, float]],
    on_batch: Callable[[], object] | None = None,
) -> Iterator[CertificateRecord]:
    """The records of units of work, each as soon as it is decided.

    A job takes in its samples in their order and no more than it wants, so that its record is the same whatever other
    jobs are beside it.

    Args:
        run: what is done.
        units: (image, sigma), see :meth:`Certification.work`.
        on_batch: called after every batch of samples.
    """
    waiting = start_jobs(run, units)
    active: list[Job] = []
    exhausted = False
    while active or not exhausted:
        began = time.perf_counter()
        batch = Batch(run.batch_size)
        for job in active:
            batch.add(job, job.tally.wanted())
        while batch.room and not exhausted:
            started = next(waiting, None)
            if started is None:
                exhausted = True
            else:
                active.append(started)
                batch.add(started, started.tally.wanted())
        batch.fill()
        if batch.counts:
            classify(run, batch, began)
            if on_batch is not None:
                on_batch()
        finished = [job for job in active if not job.tally.wanted()]
        active = [job for job in active if job.tally.wanted()]
        yield from (record_of(run, job) for job in finished)


def classify(run: Certification, batch: Batch, began: float) -> None:
    """Draw and classify a batch, give every job its results and its share of the time."""
    classes: dict[int, list[int]] = {}
    for shape in dict.fromkeys(job.pixels.shape for job, _ in batch.counts):
        alike = [(job, count) for job, count in batch.counts if job.pixels.shape == shape]
        noisy = [
            noisy_samples(job.pixels, job.tally.sigma, job.key, range(job.tally.taken, job.tally.taken + count))
            for job, count in alike
        ]
        sigma = torch.cat([torch.full((count,), job.tally.sigma) for job, count in alike])
        found = iter(classify_blocks(run.classifier, torch.cat(noisy), sigma, run.device))
        classes |= {id(job): list(islice(found, count)) for job, count in alike}
    seconds = time.perf_counter() - began
    for job, count in batch.counts:
        job.observe(classes[id(job)])
        job.seconds += seconds * count / batch.size


def record_of(run: Certification, job: Job) -> CertificateRecord:
    """The line of a finished job."""
    tally = job.tally
    assert tally.selected is not None
    return CertificateRecord(
        image=job.image,
        index=run.dataset.indices[job.image],
        key=run.dataset.keys[job.image],
        label=job.label,
        sigma=tally.sigma,
        selected=tally.selected,
        predicted=tally.predicted,
        radius=tally.radius,
        correct=tally.predicted == job.label,
        lower=tally.lower,
        successes=tally.successes,
        trials=tally.trials,
        decisions=tuple(RadiusDecision(radius=radius, decision=each) for radius, each in tally.decisions.items()),
        seconds=round(job.seconds, 4),
    )
