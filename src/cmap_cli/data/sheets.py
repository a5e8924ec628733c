"""Sheets of images: a comparison of inputs and results, samples of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cmap_cli.files import write_with

CELL, LARGEST_CELL = 96, 224
"""Pixels of a cell's side: small images are enlarged to the first, large ones reduced to the second."""
MARGIN = 8
CAPTION = 14
DIFFERENCE_GAIN = 10.0
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """An input and its result, both (C, H, W) in [0, 1] of the same size, and a line to write under them."""

    before: Tensor
    after: Tensor
    caption: str


def write_comparison(
    path: Path,
    comparisons: Sequence[SheetRow],
    columns: int = 3,
    titles: tuple[str, str] = ("input", "purified"),
    gain: float = DIFFERENCE_GAIN,
) -> None:
    """A sheet of rows: before | after | difference times ``gain`` (grey is no difference)."""
    longest = max((side for one in comparisons for side in one.before.shape[1:]), default=CELL)
    side = min(max(longest, CELL), LARGEST_CELL)
    width, height = 3 * side + 2 * MARGIN, side + CAPTION + MARGIN
    columns = max(1, min(math.ceil(columns * CELL / side), len(comparisons)))
    rows = math.ceil(len(comparisons) / columns)
    header = CAPTION + MARGIN
    sheet = Image.new(
        "RGB", (columns * (width + 2 * MARGIN) + 2 * MARGIN, rows * (height + MARGIN) + header + 2 * MARGIN), BACKGROUND
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for column in range(columns):
        for index, title in enumerate((*titles, f"difference x{gain:g}")):
            x = 2 * MARGIN + column * (width + 2 * MARGIN) + index * (side + MARGIN)
            draw.text((x, MARGIN), title, INK, font)
    for index, comparison in enumerate(comparisons):
        x = 2 * MARGIN + index % columns * (width + 2 * MARGIN)
        y = header + MARGIN + index // columns * (height + MARGIN)
        difference = 0.5 + gain * (comparison.after - comparison.before)
        for place, pixels in enumerate((comparison.before, comparison.after, difference)):
            sheet.paste(cell(pixels, side), (x + place * (side + MARGIN), y))
        draw.text((x, y + side + 1), shortened(comparison.caption, width, font), INK, font)
    sheet.save(path)


def write_samples(path: Path, images: Tensor, columns: int = 8) -> None:
    """A grid of images (N, C, H, W) in [0, 1], as PNG; small ones are enlarged without smoothing."""
    from torchvision.utils import save_image

    times = max(1, CELL // max(images.shape[2:]))
    enlarged = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    write_with(
        path,
        lambda temporary: save_image(
            enlarged, temporary, format="PNG", nrow=columns, padding=MARGIN, pad_value=BACKGROUND[0] / 255
        ),
    )


def cell(pixels: Tensor, side: int = CELL) -> Image.Image:
    """A picture of an image (C, H, W) in [0, 1] that fits a cell: enlarged without smoothing, reduced with."""
    values = (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).expand(-1, -1, 3).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(values))
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def shortened(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, its beginning cut off if it is wider than ``width`` pixels; "?" for what Pillow's own font lacks."""
    text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
