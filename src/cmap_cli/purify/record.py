"""Images of files: read, write, and record in the manifest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec
import torch
from torch import Tensor

from cmap_cli.core.similarity import SSIM
from cmap_cli.data.images import read_image, to_uint8, write_image
from cmap_cli.data.inputs import Source
from cmap_cli.data.outputs import output_path
from cmap_cli.data.sheets import SheetRow
from cmap_cli.data.tiling import assemble, cut
from cmap_cli.errors import ImageError
from cmap_cli.purify.documents import ImageRecord, Origin
from cmap_cli.purify.folder import ResultFolder, source_origin
from cmap_cli.purify.job import ImageInWork, Job, finish, predict


@dataclass(slots=True, kw_only=True)
class FileInWork(ImageInWork):
    """An image of a file.

    Attributes:
        source: where it is.
        origin: the fields of its record that say which bytes were read.
    """

    source: Source
    origin: Origin


def open_image(job: Job, source: Source) -> FileInWork:
    """Read an image and cut it into patches (ImageError if that fails)."""
    origin = source_origin(source)  # before it is read: what changes from here on is done again
    decoded = read_image(source, channels=1 if job.channels == 1 else 3)
    plan = job.plan(decoded.pixels.shape[1], decoded.pixels.shape[2])
    patches = cut(decoded.pixels, plan)
    return FileInWork(source=source, origin=origin, alpha=decoded.alpha, plan=plan, patches=patches, label=job.label)


def write_and_record(job: Job, image: FileInWork, results: ResultFolder, extension: str) -> ImageRecord:
    """Write and record an image all of whose patches are purified.

    Args:
        job: how.
        image: with all patches done.
        results: where to.
        extension: of the file, with its dot.
    """
    finished = finish(job, image)
    output = output_path(image.source, extension)
    write_image(results.folder / output, finished.pixels, finished.alpha)
    after = finished.pixels if is_float_format(extension) else to_uint8(finished.pixels).float() / 255
    prediction = predict(job, finished, after)
    terms = torch.stack(image.terms).mean(0).tolist()
    objective, pixel, perceptual, latent = (None if math.isnan(term) else term for term in terms)
    record = ImageRecord(
        **msgspec.structs.asdict(image.origin),
        output=str(output),
        width=after.shape[-1],
        height=after.shape[-2],
        fit=image.plan.mode,
        tiles=len(image.patches),
        seed=job.seed,
        label=msgspec.UNSET if image.label is None else image.label,
        num_latents=job.purifier.config.num_latents,
        steps=job.purifier.config.steps,
        objective=objective,
        pixel_term=pixel,
        perceptual_term=perceptual,
        latent_term=latent,
        **distances(after, finished.before),
        vote=msgspec.UNSET if prediction is None else prediction.vote,
        before=msgspec.UNSET if prediction is None else prediction.before,
        after=msgspec.UNSET if prediction is None else prediction.after,
        seconds=round(image.seconds, 3),
    )
    results.append(record)
    return record


def is_float_format(extension: str) -> bool:
    """Whether files of that extension hold the floats themselves; all others are rounded to 8 bits."""
    return extension in {".npy", ".npz", ".safetensors"}


def distances(after: Tensor, before: Tensor) -> Mapping[str, Any]:
    """Distance of the result from the input: mean |difference|, PSNR in dB (None if equal), mean SSIM."""
    difference = after - before
    mse = difference.square().mean()
    return {
        "l1": float(difference.abs().mean()),
        "psnr": float(-10 * mse.log10()) if mse > 0 else None,
        "ssim": float(SSIM().map(after[None], before[None]).mean()),
    }


def comparisons(job: Job, results: ResultFolder, sources: list[Source], most: int) -> Iterator[SheetRow]:
    """The first results beside their inputs, read again from their files; what has changed since is left out."""
    by_name = {str(source): source for source in sources}
    records = (record for record in results.records() if record.source in by_name)
    for record in itertools.islice(records, most):
        source, output = by_name[record.source], results.folder / record.output
        try:
            image = open_image(job, source)
            after = read_image(Source(output, None, None, PurePosixPath(output.name))).pixels
        except ImageError:
            continue
        before = assemble(image.patches, image.plan)
        caption = output.stem
        if record.before is not msgspec.UNSET:
            caption += f": {record.before} -> {record.after}"
        yield SheetRow(before, after, caption)
