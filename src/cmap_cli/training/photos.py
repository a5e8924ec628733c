"""Training photographs of any size: decoded once into one file, cropped at random places and scales."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cmap_cli.core.consistency import to_model_range
from cmap_cli.data.images import read_image, to_uint8
from cmap_cli.data.inputs import Source
from cmap_cli.errors import CmapError, ImageError
from cmap_cli.files import explaining_writes, write_text
from cmap_cli.runs.documents import read_document

PIXELS = "photos.u8"
INDEX = "photos.json"
LARGEST_FACTOR = 4.0
"""Crops are reduced by up to this factor."""
UNSCALED = 0.4
"""Share of crops that are not reduced."""
MIRRORED = 0.5
HELD_OUT_EVERY = 40

Photo = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photographs in one memory-mapped file.

    Attributes:
        pixels: uint8, all values of all photographs one after the other, each (height, width, 3).
        shapes: height and width of each.
        starts: index in ``pixels`` at which each photograph begins.
    """

    pixels: Photo
    shapes: tuple[tuple[int, int], ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        """How many photographs there are."""
        return len(self.shapes)

    def __getitem__(self, index: int) -> Photo:
        """Photograph number ``index``, uint8, (height, width, 3), a view."""
        (height, width), start = self.shapes[index], self.starts[index]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def split(self) -> tuple[PhotoSet, PhotoSet]:
        """The photographs to train on, and every 40th, beginning with the first, to measure with."""
        held_out = [index for index in range(len(self)) if index % HELD_OUT_EVERY == 0]
        trained = [index for index in range(len(self)) if index % HELD_OUT_EVERY]
        return self.subset(trained), self.subset(held_out)

    def subset(self, indices: Sequence[int]) -> PhotoSet:
        """Some of the photographs, of the same file."""
        return PhotoSet(self.pixels, tuple(self.shapes[i] for i in indices), tuple(self.starts[i] for i in indices))


def read_photos(
    sources: Sequence[Source],
    folder: Path,
    on_image: Callable[[], None],
    on_failure: Callable[[ImageError], None],
) -> PhotoSet:
    """All readable photographs, decoded into ``folder`` unless an earlier call decoded the same files.

    Args:
        sources: files of the photographs.
        folder: folder of photos.u8 (one byte per value) and photos.json.
        on_image: called after each photograph.
        on_failure: called for each photograph that cannot be read.
    """
    names = [f"{source} {source.path.stat().st_size} {source.path.stat().st_mtime_ns}" for source in sources]
    index = folder / INDEX
    known = read_index(index)
    if known is not None and known.sources == names and pixels_fit(folder / PIXELS, known.shapes):
        return mapped(folder / PIXELS, known.shapes)
    index.unlink(missing_ok=True)
    shapes: list[tuple[int, int]] = []
    with explaining_writes(folder / PIXELS), (folder / PIXELS).open("wb") as file:
        for source in sources:
            try:
                pixels = to_uint8(read_image(source, channels=3).pixels)
            except ImageError as error:
                on_failure(error)
                continue
            file.write(pixels.movedim(0, -1).contiguous().numpy().tobytes())
            shapes.append((pixels.shape[1], pixels.shape[2]))
            on_image()
    write_text(index, json.dumps({"sources": names, "shapes": shapes}))
    return mapped(folder / PIXELS, shapes)


class PhotoIndex(msgspec.Struct, frozen=True, kw_only=True):
    """photos.json: the files that were decoded, each with size and time, and (height, width) of each photograph."""

    sources: list[str]
    shapes: list[tuple[int, int]]


def read_index(path: Path) -> PhotoIndex | None:
    """The index of decoded photographs; None if there is none, or a damaged one."""
    try:
        return read_document(path, PhotoIndex)
    except CmapError:
        return None


def pixels_fit(path: Path, shapes: Sequence[Sequence[int]]) -> bool:
    """Whether a file of decoded photographs has the expected number of bytes."""
    return path.exists() and path.stat().st_size == sum(3 * height * width for height, width in shapes)


def mapped(path: Path, shapes: Sequence[Sequence[int]]) -> PhotoSet:
    """The photographs of a file, which must not be empty."""
    sizes = [3 * height * width for height, width in shapes]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    pixels = np.memmap(path, dtype=np.uint8, mode="r") if sizes else np.zeros(0, np.uint8)
    return PhotoSet(pixels, tuple((height, width) for height, width in shapes), tuple(starts))


def draw_crops(photos: PhotoSet, count: int, side: int, seed: Sequence[int]) -> Tensor:
    """Random square parts of random photographs, some reduced, some mirrored; they depend only on ``seed``.

    The factor of reduction is 1 for 40 % of the crops, and log-uniform between 1 and 4 for the others (less if a
    photograph is too small), with an antialiasing bicubic filter. A photograph smaller than a crop is enlarged.

    Returns:
        (count, 3, side, side) in [-1, 1].
    """
    random = np.random.default_rng(list(seed))
    crops = np.empty((count, side, side, 3), np.uint8)
    for crop in crops:
        photo = photos[int(random.integers(len(photos)))]
        height, width, _ = photo.shape
        factor = 1.0 if random.random() < UNSCALED else math.exp(random.random() * math.log(LARGEST_FACTOR))
        part = min(math.ceil(side * factor), height, width)
        top, left = int(random.integers(height - part + 1)), int(random.integers(width - part + 1))
        cut = photo[top : top + part, left : left + part]
        if part != side:
            cut = np.asarray(Image.fromarray(cut).resize((side, side), Image.Resampling.BICUBIC))
        crop[:] = cut[:, ::-1] if random.random() < MIRRORED else cut
    return to_model_range(torch.from_numpy(crops).movedim(-1, 1).float() / 255)
