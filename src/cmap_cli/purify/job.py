"""Purify images of any size: cut into patches, purify a batch of them, assemble, choose, write, record."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import torch
from torch import Tensor

from cmap_cli.choices import Fit, Select, Vote
from cmap_cli.core.predict import VOTES, classify, most_certain, select
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.similarity import SSIM
from cmap_cli.core.types import Step, num_classes
from cmap_cli.data.images import read_image, to_uint8, write_image
from cmap_cli.data.inputs import Source
from cmap_cli.data.outputs import output_path
from cmap_cli.data.sheets import Comparison
from cmap_cli.data.tiling import FitPlan, assemble, cut, fit_alpha, plan_fit
from cmap_cli.errors import ImageError
from cmap_cli.models.classifiers import LoadedClassifier
from cmap_cli.purify.folder import ResultFolder, source_identity
from cmap_cli.runs.settings import Record


@dataclass(frozen=True)
class Job:
    """How each image is treated.

    Attributes:
        purifier: the method on a model.
        device: where the model is.
        seed: of the latents, together with the image's own values.
        fit: how images of another size meet the model.
        max_tiles: up to how many tiles "auto" tiles.
        select: which of the K candidates is written.
        vote: how the candidates' predictions are combined.
        classifier: shown the images before and after, if there is one.
        extension: of the files written, with its dot.
        batch_size: patches at once, neither more nor less.
        label: of a class-conditional model: the class of all images; None: what the classifier says.
    """

    purifier: Purifier
    device: torch.device
    seed: int
    fit: Fit
    max_tiles: int
    select: Select
    vote: Vote
    classifier: LoadedClassifier | None
    extension: str
    batch_size: int
    label: int | None = None

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of the model's images."""
        return self.purifier.model.image_shape[1], self.purifier.model.image_shape[2]

    def plan(self, height: int, width: int) -> FitPlan:
        """How an image of that size is cut."""
        return plan_fit(height, width, self.patch_size, self.fit, self.max_tiles)


@dataclass(frozen=True, slots=True)
class Failed:
    """An image that could not be done."""

    source: str
    error: ImageError


@dataclass(slots=True)
class ImageInWork:
    """An image whose patches are waiting or done.

    Attributes:
        source: where it came from.
        origin: the fields of its record that say which bytes were read.
        alpha: its transparency, (H, W), if it has any.
        plan: how it is cut.
        patches: what is purified, (T, C, h, w).
        label: the class that a class-conditional model is told.
        chosen: the selected candidate of each patch that is done, (C, h, w); not for --select vote.
        candidates: all K of them, (K, C, h, w); only kept for a classifier.
        terms: objective, pixel, perceptual and latent term of each patch that is done, (4,).
        seconds: time spent.
    """

    source: Source
    origin: Record
    alpha: Tensor | None
    plan: FitPlan
    patches: Tensor
    label: int | None = None
    chosen: list[Tensor] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    terms: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0


def open_image(job: Job, source: Source) -> ImageInWork:
    """Read an image and cut it into patches (ImageError if it cannot be)."""
    origin = source_identity(source)  # before it is read: what changes from here on is done again
    channels = job.purifier.model.image_shape[0]
    decoded = read_image(source, channels=1 if channels == 1 else 3)
    plan = job.plan(decoded.pixels.shape[1], decoded.pixels.shape[2])
    return ImageInWork(source, origin, decoded.alpha, plan, cut(decoded.pixels, plan), job.label)


def tell_class(job: Job, image: ImageInWork) -> None:
    """For a class-conditional model without a class for all images: what the classifier sees (ImageError if none)."""
    if image.label is None and num_classes(job.purifier.model):
        image.label = int(classify_on(job, assemble(image.patches, image.plan)[None]).argmax())


def purify_patches(
    job: Job, batch: list[tuple[ImageInWork, Tensor]], on_step: Callable[[Step], None] | None
) -> Iterator[ImageInWork]:
    """Purify a batch of patches; gives each image whose last patch is among them.

    A batch that is not full is filled up with copies of its last patch: how sums are rounded depends on the size of a
    batch, and with one size for all an image does not depend on how many others there are, or in which shard.
    """
    began = time.perf_counter()
    filled = [*batch, *[batch[-1]] * (job.batch_size - len(batch))]
    x = torch.stack([patch for _, patch in filled])
    labels = None
    if num_classes(job.purifier.model):
        labels = torch.tensor([image.label for image, _ in filled], device=job.device)
    found = job.purifier(x.to(job.device), image_generators(x, job.seed), on_step, labels)
    objective = found.objective
    terms = torch.stack(
        [objective.total, objective.pixel.sum(1), objective.perceptual.sum(1), objective.latent], 1
    ).cpu()
    chosen = None if job.select == "vote" else select(found, job.select).cpu()
    samples = None if job.classifier is None else found.samples.cpu()
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


def finish_image(job: Job, image: ImageInWork, results: ResultFolder) -> Record:
    """Assemble, choose, write and record an image all of whose patches are purified."""
    predictions: Record = {}
    chosen = assemble(torch.stack(image.chosen), image.plan) if image.chosen else None
    if job.classifier is not None:
        candidates = torch.stack([assemble(candidate, image.plan) for candidate in torch.stack(image.candidates, 1)])
        logits = classify_on(job, candidates)
        predictions["vote"] = job.classifier.class_name(int(VOTES[job.vote](logits).argmax()))
        if chosen is None:
            chosen = candidates[int(most_certain(logits[None]))]
    assert chosen is not None  # the command line asks for a classifier with --select vote
    alpha = None if image.alpha is None else fit_alpha(image.alpha, image.plan)
    output = output_path(image.source, job.extension)
    write_image(results.folder / output, chosen, alpha)
    before = assemble(image.patches, image.plan)
    after = chosen if is_float_format(job.extension) else to_uint8(chosen).float() / 255
    if job.classifier is not None:
        first, second = classify_on(job, torch.stack([before, after])).argmax(-1).tolist()
        predictions |= {"before": job.classifier.class_name(first), "after": job.classifier.class_name(second)}
    objective, pixel, perceptual, latent = torch.stack(image.terms).mean(0).tolist()
    record = {
        **image.origin,
        "output": str(output),
        "width": after.shape[-1],
        "height": after.shape[-2],
        "fit": image.plan.mode,
        "tiles": len(image.patches),
        "seed": job.seed,
        **({} if image.label is None else {"label": image.label}),
        "num_latents": job.purifier.config.num_latents,
        "steps": job.purifier.config.steps,
        "objective": objective,
        "pixel_term": pixel,
        "perceptual_term": perceptual,
        "latent_term": latent,
        **distances(after, before),
        **predictions,
        "seconds": round(image.seconds, 3),
    }
    results.append(record)
    return record


def is_float_format(extension: str) -> bool:
    """Whether files of that extension hold the floats themselves; all others are rounded to 8 bits."""
    return extension in {".npy", ".npz", ".safetensors"}


def classify_on(job: Job, x: Tensor) -> Tensor:
    """Logits on the CPU of images (N, C, H, W) in [0, 1]; a grey image is shown as RGB."""
    assert job.classifier is not None  # nothing asks otherwise
    try:
        with torch.no_grad():
            return classify(job.classifier.module, x.expand(-1, 3, -1, -1)[None].to(job.device))[0].cpu()
    except RuntimeError as error:
        size = f"{x.shape[-1]}×{x.shape[-2]}"
        raise ImageError(f"{job.classifier.name} cannot classify an image of {size}: {error}") from error


def distances(after: Tensor, before: Tensor) -> Mapping[str, float | None]:
    """How far what was written is from the input: mean |difference|, PSNR in dB (None if equal), mean SSIM."""
    difference = after - before
    mse = difference.square().mean()
    return {
        "l1": float(difference.abs().mean()),
        "psnr": float(-10 * mse.log10()) if mse > 0 else None,
        "ssim": float(SSIM().map(after[None], before[None]).mean()),
    }


def comparisons(job: Job, results: ResultFolder, sources: list[Source], most: int) -> Iterator[Comparison]:
    """The first results beside their inputs, read again from their files; what has changed since is left out."""
    by_name = {str(source): source for source in sources}
    records = (record for record in results.records() if record["source"] in by_name)
    for record in itertools.islice(records, most):
        source, output = by_name[record["source"]], results.folder / record["output"]
        try:
            image = open_image(job, source)
            after = read_image(Source(output, None, None, PurePosixPath(output.name))).pixels
        except ImageError:
            continue
        before = assemble(image.patches, image.plan)
        caption = output.stem
        if "before" in record:
            caption += f": {record['before']} -> {record['after']}"
        yield Comparison(before, after, caption)
