"""Purify many images of any size: cut into patches, batch, purify, assemble, choose, write, record."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor

from cmap_cli.choices import Fit, Select, Vote
from cmap_cli.classifiers import LoadedClassifier
from cmap_cli.core.predict import VOTES, classify, select
from cmap_cli.core.purify import Purifier, image_generators
from cmap_cli.core.similarity import SSIM
from cmap_cli.core.types import Objective, Purification, Step
from cmap_cli.device import choose_batch_size, saved_bytes
from cmap_cli.errors import ImageError
from cmap_cli.figures import Comparison
from cmap_cli.fit import FitPlan, assemble, cut, fit_alpha, plan_fit
from cmap_cli.images import DecodedImage, read_image, to_uint8, write_image
from cmap_cli.inputs import Source, image_size
from cmap_cli.outputs import output_path
from cmap_cli.results import Record, ResultFolder

SURVEYED = 500


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
        batch_size: patches at once.
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
    """An image whose patches are waiting or done."""

    source: Source
    decoded: DecodedImage
    plan: FitPlan
    patches: Tensor
    results: list[Purification] = field(default_factory=list)
    seconds: float = 0.0


def purify_sources(
    job: Job,
    sources: Iterable[Source],
    results: ResultFolder,
    on_step: Callable[[Step], None] | None = None,
) -> Iterator[Record | Failed]:
    """Purify the sources that ``results`` does not have yet, one batch of patches at a time.

    Args:
        job: how.
        sources: which images; read when their turn comes, so memory does not grow with their number.
        results: where they go; each record is appended after its image is written.
        on_step: told about every optimisation step.

    Yields:
        The record of each image when it is written, or why it could not be done.

    Raises:
        OutOfSpaceError: nothing more can be written.
    """
    queue: list[tuple[ImageInWork, Tensor]] = []
    for source in sources:
        try:
            if results.has(source_identity(source)):
                continue
            image = open_image(job, source)
        except ImageError as error:
            yield Failed(str(source), error)
            continue
        queue += [(image, patch) for patch in image.patches]
        while len(queue) >= job.batch_size:
            yield from purify_patches(job, queue[: job.batch_size], results, on_step)
            del queue[: job.batch_size]
    if queue:
        yield from purify_patches(job, queue, results, on_step)


def source_identity(source: Source) -> Record:
    """The fields of a record that say which bytes it was made from."""
    try:
        stat = source.path.stat()
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror or error}") from error
    return {"source": str(source), "source_bytes": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}


def open_image(job: Job, source: Source) -> ImageInWork:
    """Read an image and cut it into patches."""
    channels = job.purifier.model.image_shape[0]
    decoded = read_image(source, channels=1 if channels == 1 else 3)
    plan = job.plan(*decoded.pixels.shape[-2:])
    return ImageInWork(source, decoded, plan, cut(decoded.pixels, plan))


def purify_patches(
    job: Job,
    batch: list[tuple[ImageInWork, Tensor]],
    results: ResultFolder,
    on_step: Callable[[Step], None] | None,
) -> Iterator[Record | Failed]:
    """Purify a batch of patches, and finish each image whose last patch is among them."""
    began = time.perf_counter()
    x = torch.stack([patch for _, patch in batch])
    purification = job.purifier(x.to(job.device), image_generators(x, job.seed), on_step)
    purification = map_tensors(purification, lambda tensor: tensor.cpu())
    seconds = (time.perf_counter() - began) / len(batch)
    for index, (image, _) in enumerate(batch):
        image.results.append(map_tensors(purification, lambda tensor, i=index: tensor[i : i + 1]))  # type: ignore[misc]
        image.seconds += seconds
        if len(image.results) == len(image.patches):
            try:
                yield finish_image(job, image, results)
            except ImageError as error:
                yield Failed(str(image.source), error)


def map_tensors(purification: Purification, function: Callable[[Tensor], Tensor]) -> Purification:
    """The purification with a function applied to each of its tensors."""

    def apply(record: Any) -> dict[str, Any]:
        values = ((f.name, getattr(record, f.name)) for f in dataclasses.fields(record))
        return {name: function(value) for name, value in values if isinstance(value, Tensor)}

    return Purification(**apply(purification), objective=Objective(**apply(purification.objective)))


def concatenate(parts: list[Purification]) -> Purification:
    """Purifications of one image each -> one of all."""

    def cat(records: list[Any]) -> dict[str, Any]:
        names = [f.name for f in dataclasses.fields(records[0]) if f.name != "objective"]
        return {name: torch.cat([getattr(record, name) for record in records]) for name in names}

    return Purification(**cat(parts), objective=Objective(**cat([part.objective for part in parts])))


def finish_image(job: Job, image: ImageInWork, results: ResultFolder) -> Record:
    """Assemble, choose, write and record an image all of whose patches are purified."""
    patches = concatenate(image.results)
    image.results.clear()
    predictions: Record = {}
    if job.classifier is None:
        chosen = assemble(select(patches, job.select), image.plan)
    else:
        candidates = torch.stack([assemble(candidate, image.plan) for candidate in patches.samples.unbind(1)])
        logits = classify_on(job, candidates)
        if job.select == "vote":
            whole = dataclasses.replace(patches, samples=candidates[None])
            chosen = select(whole, "vote", logits[None])[0]
        else:
            chosen = assemble(select(patches, job.select), image.plan)
        predictions["vote"] = job.classifier.class_name(int(VOTES[job.vote](logits).argmax()))
    alpha = None if image.decoded.alpha is None else fit_alpha(image.decoded.alpha, image.plan)
    output = output_path(image.source, job.extension)
    write_image(results.folder / output, chosen, alpha)
    before = assemble(image.patches, image.plan)
    after = chosen if is_float_format(job.extension) else to_uint8(chosen).float() / 255
    if job.classifier is not None:
        first, second = classify_on(job, torch.stack([before, after])).argmax(-1).tolist()
        predictions |= {"before": job.classifier.class_name(first), "after": job.classifier.class_name(second)}
    record = {
        **source_identity(image.source),
        "output": str(output),
        "width": after.shape[-1],
        "height": after.shape[-2],
        "fit": image.plan.mode,
        "tiles": len(image.patches),
        "seed": job.seed,
        "num_latents": job.purifier.config.num_latents,
        "steps": job.purifier.config.steps,
        **objective_values(patches.objective),
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
    assert job.classifier is not None
    with torch.no_grad():
        return classify(job.classifier.module, x.expand(-1, 3, -1, -1)[None].to(job.device))[0].cpu()


def objective_values(objective: Objective) -> Record:
    """The final objective and its terms before their weights, summed over the latents, mean over tiles."""
    return {
        "objective": float(objective.total.mean()),
        "pixel_term": float(objective.pixel.sum(1).mean()),
        "perceptual_term": float(objective.perceptual.sum(1).mean()),
        "latent_term": float(objective.latent.mean()),
    }


def distances(after: Tensor, before: Tensor) -> Mapping[str, float | None]:
    """How far what was written is from the input: mean |difference|, PSNR in dB (None if equal), mean SSIM."""
    difference = after - before
    mse = difference.square().mean()
    return {
        "l1": float(difference.abs().mean()),
        "psnr": float(-10 * mse.log10()) if mse > 0 else None,
        "ssim": float(SSIM().map(after[None], before[None]).mean()),
    }


def patch_batch_size(purifier: Purifier, device: torch.device) -> int:
    """How many patches fit on the device at once, from what one patch's latents keep for the backward pass."""
    x = torch.rand(1, *purifier.model.image_shape, device=device)
    one_step = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, steps=1))
    return choose_batch_size(saved_bytes(lambda: one_step(x, image_generators(x, 0)).samples), device)


def seconds_per_patch(purifier: Purifier, device: torch.device, batch_size: int) -> float:
    """About how long one patch takes at this batch size, extrapolated from a few steps."""
    x = torch.rand(batch_size, *purifier.model.image_shape, device=device)
    generators = image_generators(x, 0)
    timed_steps = min(3, purifier.config.steps)

    def run(steps: int) -> float:
        short = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, steps=steps))
        began = time.perf_counter()
        float(short(x, generators).samples.sum())
        return time.perf_counter() - began

    run(1)  # first calls allocate and choose kernels
    return run(timed_steps) / timed_steps * purifier.config.steps / batch_size


@dataclass(frozen=True, slots=True)
class Survey:
    """What the inputs will take, from the headers of up to 500 of them, extrapolated to all.

    Attributes:
        patches: of all images.
        tiled: images cut into tiles.
        tiled_patches: the tiles of these.
        resized: images that "auto" resizes because they need too many tiles.
        resized_patches: the tiles these would need.
    """

    patches: int
    tiled: int
    tiled_patches: int
    resized: int
    resized_patches: int


def survey(job: Job, sources: list[Source]) -> Survey:
    """Look at the sizes of the images; unreadable ones are passed over here."""
    sample = sources[:: -(-len(sources) // SURVEYED)] if sources else []
    counts = {"patches": 0, "tiled": 0, "tiled_patches": 0, "resized": 0, "resized_patches": 0}
    for source in sample:
        try:
            width, height = image_size(source)
        except ImageError:
            continue
        plan = job.plan(height, width)
        counts["patches"] += plan.tiles
        if plan.mode == "tile":
            counts["tiled"] += 1
            counts["tiled_patches"] += plan.tiles
        elif plan.mode == "resize" and job.fit == "auto":
            counts["resized"] += 1
            counts["resized_patches"] += plan_fit(height, width, job.patch_size, "tile").tiles
    return Survey(**{name: round(count * len(sources) / len(sample)) for name, count in counts.items()})


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
            caption += f": {record['before']} → {record['after']}"
        yield Comparison(before, after, caption)
