"""Purify images of any size in memory: take whole or cut into patches, purify a batch, assemble, choose."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from cmap_cli.choices import Fit, Select, Vote
from cmap_cli.core.predict import VOTES, classify, most_certain, select
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.types import Purification, Step, TakesAnySize, num_classes
from cmap_cli.data.tiling import FitPlan, assemble, cut, fit_alpha, plan_fit
from cmap_cli.errors import ImageError
from cmap_cli.models.classifiers import LoadedClassifier

LARGEST_OPTIMISED = (512, 512)
"""(height, width): pixels whose latents are optimised together, with models for any size."""
CLASSIFIED_TOGETHER = 512 * 512
"""Pixels of an image of which all candidates are classified in one call."""


@dataclass(frozen=True)
class Job:
    """How images are purified.

    Attributes:
        model: name of the consistency model.
        purifier: the method on it.
        device: where the model is.
        seed: of the latents, together with the image's own values.
        fit: what is done with images of another size than the model's.
        max_tiles: "auto" tiles up to this number of tiles, and refuses images that need more.
        select: which of the K candidates is chosen.
        vote: how the candidates' predictions are combined.
        classifier: classifies the images before and after, if there is one.
        batches: patches at once by their (height, width), neither more nor less; one of sizes that are not listed.
        label: of a class-conditional model: the class of all images; None: what the classifier predicts.
        keep_candidates: whether all candidates are kept although no classifier needs them.
    """

    model: str
    purifier: Purifier
    device: torch.device
    seed: int
    fit: Fit
    max_tiles: int
    select: Select
    vote: Vote
    classifier: LoadedClassifier | None
    batches: Mapping[tuple[int, int], int] = field(default_factory=dict)
    label: int | None = None
    keep_candidates: bool = False

    @property
    def channels(self) -> int:
        """Channels of the model's images."""
        return self.purifier.model.image_shape[0]

    @property
    def takes_any_size(self) -> bool:
        """Whether the model takes images of any size."""
        return isinstance(self.purifier.model, TakesAnySize)

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of the model's images; of a model for any size, of images that are resized or cropped."""
        return self.purifier.model.image_shape[1], self.purifier.model.image_shape[2]

    def plan(self, height: int, width: int) -> FitPlan:
        """How an image of that size is cut.

        A model for any size gets it whole; only what is optimised beyond LARGEST_OPTIMISED is cut into tiles.

        Raises:
            ImageError: it needs more tiles than "auto" cuts.
        """
        if not self.takes_any_size or self.fit in ("resize", "crop"):
            return plan_fit(height, width, self.patch_size, self.fit, self.max_tiles)
        if self.purifier.config.method == "denoise" or height * width <= math.prod(LARGEST_OPTIMISED):
            return plan_fit(height, width, (height, width), "tile")
        return plan_fit(height, width, LARGEST_OPTIMISED, "tile")

    def batch_size(self, size: tuple[int, int]) -> int:
        """How many patches of that (height, width) are purified at once."""
        return self.batches.get(size, 1)


@dataclass(frozen=True)
class Jobs:
    """How each image is treated by its size: one job, or with ``--model auto`` one for each model.

    Attributes:
        each: jobs of models of one size first; the last does what none of the others takes as it is.
    """

    each: tuple[Job, ...]

    @property
    def last(self) -> Job:
        """One of the jobs, for settings that all of them share."""
        return self.each[-1]

    def of(self, height: int, width: int) -> Job:
        """The job of images of that size."""
        fitting = (job for job in self.each if not job.takes_any_size and job.patch_size == (height, width))
        return next(fitting, self.last)

    def plan(self, height: int, width: int) -> tuple[Job, FitPlan]:
        """The job of images of that size, and how it cuts them (ImageError as of :meth:`Job.plan`)."""
        job = self.of(height, width)
        return job, job.plan(height, width)


@dataclass(slots=True, kw_only=True)
class ImageInWork:
    """An image whose patches are waiting or done.

    Attributes:
        job: how it is treated.
        alpha: its transparency, (H, W), if it has any.
        plan: how it is cut.
        patches: what is purified, (T, C, h, w).
        label: the class given to a class-conditional model.
        chosen: the selected candidate of each patch that is done, (C, h, w); not for --select vote.
        candidates: all K of them, (K, C, h, w); only kept where they are needed.
        terms: objective, pixel, perceptual and latent term of each patch that is done, (4,).
        seconds: time spent.
    """

    job: Job
    alpha: Tensor | None
    plan: FitPlan
    patches: Tensor
    label: int | None = None
    chosen: list[Tensor] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    terms: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


W = TypeVar("W", bound=ImageInWork)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A purified image.

    Attributes:
        pixels: the chosen candidate, (C, H, W) in [0, 1].
        before: the input as it was fitted to the model, (C, H, W).
        alpha: transparency of the result, (H, W), if there is any.
        candidates: all K of them, (K, C, H, W); None where they were not kept.
        logits: of the candidates, (K, classes); None without a classifier.
    """

    pixels: Tensor
    before: Tensor
    alpha: Tensor | None
    candidates: Tensor | None
    logits: Tensor | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Classes of an image by name, or by number where the classifier has no names.

    Attributes:
        before: of the input.
        after: of the purified image.
        vote: by the vote of all candidates.
    """

    before: str
    after: str
    vote: str


def begin(jobs: Jobs, pixels: Tensor, alpha: Tensor | None = None) -> ImageInWork:
    """Cut an image (C, H, W) in [0, 1] into patches."""
    job, plan = jobs.plan(pixels.shape[1], pixels.shape[2])
    return ImageInWork(job=job, alpha=alpha, plan=plan, patches=cut(pixels, plan), label=job.label)


def condition_image(image: ImageInWork) -> None:
    """For a class-conditional model without a class for all images: the classifier's prediction (ImageError)."""
    if image.label is None and num_classes(image.job.purifier.model):
        image.label = int(classify_on(image.job, assemble(image.patches, image.plan)[None]).argmax())


def purify_patches(job: Job, batch: list[tuple[W, Tensor]], on_step: Callable[[Step], None] | None) -> Iterator[W]:
    """Purify a batch of patches of one job and size; yields each image whose last patch is among them.

    A batch that is not full is filled up with copies of its last patch: how sums are rounded depends on the size of a
    batch, and with one size for all an image does not depend on how many others there are, or in which shard.
    """
    began = time.perf_counter()
    size = batch[0][1].shape[-2], batch[0][1].shape[-1]
    filled = [*batch, *[batch[-1]] * (job.batch_size(size) - len(batch))]
    x = filled[0][1][None] if len(filled) == 1 else torch.stack([patch for _, patch in filled])
    labels = None
    if num_classes(job.purifier.model):
        labels = torch.tensor([image.label for image, _ in filled], device=job.device)
    found = job.purifier(x.to(job.device), image_generators(x, job.seed), on_step, labels)
    terms = objective_terms(found)
    chosen = None if job.select == "vote" else select(found, job.select).cpu()
    samples = found.samples.cpu() if job.classifier is not None or job.keep_candidates else None
    seconds = (time.perf_counter() - began) / len(batch)
    for index, (image, _) in enumerate(batch):
        image.terms.append(terms[index])
        if chosen is not None:
            image.chosen.append(chosen[index])
        if samples is not None:
            image.candidates.append(samples[index])
        image.seconds += seconds
        if len(image.terms) == len(image.patches):
            yield image


def objective_terms(found: Purification) -> Tensor:
    """Objective, pixel, perceptual and latent term of each patch, (B, 4) on the CPU; not a number without any."""
    objective = found.objective
    if objective is None:
        return torch.full((len(found.samples), 4), torch.nan)
    return torch.stack(
        [objective.total, objective.pixel.sum(1), objective.perceptual.sum(1), objective.latent], 1
    ).cpu()


def assemble_image(image: ImageInWork) -> Finished:
    """Assemble an image all of whose patches are purified, and choose a candidate."""
    job = image.job
    pixels = assemble(image.chosen, image.plan) if image.chosen else None
    candidates = logits = None
    if len(image.candidates) == 1:
        candidates = image.candidates[0]
    elif image.candidates:
        candidates = torch.stack([assemble(candidate, image.plan) for candidate in torch.stack(image.candidates, 1)])
    if job.classifier is not None and candidates is not None:
        logits = classify_on(job, candidates)
        if pixels is None:
            pixels = candidates[int(most_certain(logits[None]))]
    assert pixels is not None  # select="vote" is refused without a classifier
    alpha = None if image.alpha is None else fit_alpha(image.alpha, image.plan)
    return Finished(pixels, assemble(image.patches, image.plan), alpha, candidates, logits)


def image_prediction(job: Job, finished: Finished, after: Tensor) -> Prediction | None:
    """Classes of an image; None without a classifier.

    Args:
        job: of the image, with the classifier.
        finished: the image.
        after: the result as it is written or returned, (C, H, W).
    """
    if job.classifier is None or finished.logits is None:
        return None
    vote = int(VOTES[job.vote](finished.logits).argmax())
    first, second = classify_on(job, torch.stack([finished.before, after])).argmax(-1).tolist()
    return Prediction(*map(job.classifier.class_name, (first, second, vote)))


def classify_on(job: Job, x: Tensor) -> Tensor:
    """Logits on the CPU of images (N, C, H, W) in [0, 1], large ones one by one; a grey image is shown as RGB."""
    assert job.classifier is not None  # nothing asks otherwise
    together = len(x) if x[0, 0].numel() <= CLASSIFIED_TOGETHER else 1
    try:
        with torch.no_grad():
            parts = x.expand(-1, 3, -1, -1).split(together)  # type: ignore[no-untyped-call]
            return torch.cat([classify(job.classifier.module, part[None].to(job.device))[0].cpu() for part in parts])
    except RuntimeError as error:
        size = f"{x.shape[-1]}×{x.shape[-2]}"
        raise ImageError(f"{job.classifier.name} cannot classify an image of {size}: {error}") from error
