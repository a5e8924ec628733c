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
from cmap_cli.data.headers import check_pixels
from cmap_cli.data.images import read_image, to_channels, to_uint8, write_image
from cmap_cli.data.inputs import Source, image_size
from cmap_cli.data.outputs import output_path
from cmap_cli.data.sheets import SheetRow
from cmap_cli.data.tiling import assemble
from cmap_cli.errors import ImageError
from cmap_cli.purify.documents import ImageRecord, Origin
from cmap_cli.purify.folder import ResultFolder, source_origin
from cmap_cli.purify.job import ImageInWork, Jobs, assemble_image, begin, image_prediction

WHOLE_SSIM = 1 << 20
"""Pixels of an image whose SSIM is computed at once; of a larger one in squares of SQUARE pixels a side."""
SQUARE = 512


@dataclass(slots=True, kw_only=True)
class FileInWork(ImageInWork):
    """An image of a file.

    Attributes:
        source: where it is.
        origin: the fields of its record that say which bytes were read.
        grey: whether the file is grey; then the result is grey as well.
    """

    source: Source
    origin: Origin
    grey: bool


def open_image(jobs: Jobs, source: Source) -> FileInWork:
    """Read an image and cut it into patches (ImageError if that fails)."""
    origin = source_origin(source)  # before it is read: what changes from here on is done again
    width, height = image_size(source)
    check_pixels(str(source), width, height)
    jobs.plan(height, width)  # what needs too many tiles is refused before memory is taken for it
    decoded = read_image(source, channels=1 if jobs.last.channels == 1 else 3)
    image = begin(jobs, decoded.pixels, decoded.alpha)
    return FileInWork(
        source=source,
        origin=origin,
        grey=decoded.grey,
        job=image.job,
        alpha=image.alpha,
        plan=image.plan,
        patches=image.patches,
        label=image.label,
    )


def write_and_record(image: FileInWork, results: ResultFolder, extension: str) -> ImageRecord:
    """Write and record an image all of whose patches are purified.

    Args:
        image: with all patches done.
        results: where to.
        extension: of the file, with its dot; see :func:`output_path`.
    """
    finished, job = assemble_image(image), image.job
    output = output_path(image.source, extension)
    pixels = to_channels(finished.pixels, 1) if image.grey else finished.pixels
    write_image(results.folder / output, pixels, finished.alpha)
    after = to_channels(pixels if is_float_format(output.suffix) else to_uint8(pixels).float() / 255, job.channels)
    prediction = image_prediction(job, finished, after)
    terms = torch.stack(image.terms).mean(0).tolist()
    objective, pixel, perceptual, latent = (None if math.isnan(term) else term for term in terms)
    record = ImageRecord(
        **msgspec.structs.asdict(image.origin),
        output=str(output),
        width=after.shape[-1],
        height=after.shape[-2],
        model=job.model,
        method=job.purifier.config.method,
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
    l1 = float(difference.abs().mean())
    mse = difference.square_().mean()
    return {"l1": l1, "psnr": float(-10 * mse.log10()) if mse > 0 else None, "ssim": mean_ssim(after, before)}


def mean_ssim(after: Tensor, before: Tensor) -> float:
    """Mean SSIM of images (C, H, W) in [0, 1]; of large ones in squares, with margins as wide as the window's."""
    ssim = SSIM()
    if after[0].numel() <= WHOLE_SSIM:
        return float(ssim.map(after[None], before[None]).mean())
    reach, total = ssim.window_size // 2, 0.0
    for row, column in itertools.product(*(range(0, side, SQUARE) for side in after.shape[-2:])):
        top, left = min(row, reach), min(column, reach)  # margins before the square
        rows, columns = slice(row - top, row + SQUARE + reach), slice(column - left, column + SQUARE + reach)
        found = ssim.map(after[None, :, rows, columns], before[None, :, rows, columns])
        total += float(found[..., top : top + SQUARE, left : left + SQUARE].double().sum())
    return total / after.numel()


def comparisons(jobs: Jobs, results: ResultFolder, sources: list[Source], most: int) -> Iterator[SheetRow]:
    """The first results beside their inputs, read again from their files; what has changed since is left out."""
    by_name = {str(source): source for source in sources}
    records = (record for record in results.records() if record.source in by_name)
    for record in itertools.islice(records, most):
        source, output = by_name[record.source], results.folder / record.output
        try:
            image = open_image(jobs, source)
            after = read_image(Source(output, None, None, PurePosixPath(output.name))).pixels
        except ImageError:
            continue
        before = assemble(image.patches, image.plan)
        caption = output.stem
        if record.before is not msgspec.UNSET:
            caption += f": {record.before} -> {record.after}"
        yield SheetRow(before, after, caption)
