"""Images of any size for a model of a fixed size: cut an image into patches, and assemble the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import interpolate, pad

from cmap_cli.choices import Fit
from cmap_cli.errors import ImageError


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How an image is fitted to the model; made by `plan_fit`.

    Attributes:
        mode: "exact" changes nothing; "tile" keeps the image's size; "resize" and "crop" give the model's size.
        image_size: (height, width) of the image in pixels.
        size: (h, w) of the model and of each patch.
    """

    mode: Literal["exact", "tile", "resize", "crop"]
    image_size: tuple[int, int]
    size: tuple[int, int]

    @property
    def tops(self) -> tuple[int, ...]:
        """The first row of each row of tiles, in the padded image; (0,) unless tiled."""
        return _starts(self.image_size[0], self.size[0]) if self.mode == "tile" else (0,)

    @property
    def lefts(self) -> tuple[int, ...]:
        """The first column of each column of tiles."""
        return _starts(self.image_size[1], self.size[1]) if self.mode == "tile" else (0,)

    @property
    def tiles(self) -> int:
        """How many patches there are."""
        if self.mode != "tile":
            return 1
        return (_steps(self.image_size[0], self.size[0]) + 1) * (_steps(self.image_size[1], self.size[1]) + 1)

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the result in pixels."""
        return self.image_size if self.mode == "tile" else self.size


def plan_fit(height: int, width: int, size: tuple[int, int], fit: Fit, max_tiles: int = 64) -> FitPlan:
    """Decides how an image is fitted to the model.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        size: (h, w) of the model.
        fit: "tile" takes overlapping patches at full resolution; "resize" squeezes the image into (h, w);
            "crop" resizes its shorter side and takes the centre, as torchvision does; "auto" is "tile" up to
            `max_tiles`. All of them leave an image of the model's size unchanged.
        max_tiles: for "auto".

    Raises:
        ImageError: "auto" would need more tiles.
    """
    image_size = (height, width)
    if image_size == size:
        return FitPlan("exact", image_size, size)
    tiled = FitPlan("tile", image_size, size)
    if fit == "auto" and tiled.tiles > max_tiles:
        raise ImageError(
            f"an image of {width}×{height} needs {tiled.tiles} tiles of {size[1]}×{size[0]}, more than {max_tiles}",
            "--model auto takes it whole; --fit tile cuts it all the same, --fit resize makes it smaller",
        )
    return FitPlan("tile" if fit == "auto" else fit, image_size, size)


def _steps(length: int, tile: int) -> int:
    """How many tiles follow the first along one axis; each overlaps the next by a quarter or more."""
    if length <= tile:
        return 0
    longest_step = max(1, tile - -(-tile // 4))
    return -(-(length - tile) // longest_step)


def _starts(length: int, tile: int) -> tuple[int, ...]:
    """Where the tiles of one axis begin: in even steps."""
    steps = _steps(length, tile)
    return tuple(i * (length - tile) // steps for i in range(steps + 1)) if steps else (0,)


def cut(pixels: torch.Tensor, plan: FitPlan) -> torch.Tensor:
    """Turns an image into patches of the model's size.

    Args:
        pixels: (C, H, W) in [0, 1], of the plan's image size.
        plan: of `plan_fit`.

    Returns:
        (T, C, h, w) in [0, 1], T is `plan.tiles`.
    """
    h, w = plan.size
    match plan.mode:
        case "exact":
            return pixels[None]
        case "resize":
            return _resize(pixels, (h, w))[None]
        case "crop":
            height, width = plan.image_size
            wide = width * h >= height * w  # wider than the model, so that its height becomes the model's
            covering = (h, h * width // height) if wide else (w * height // width, w)
            top, left = round((covering[0] - h) / 2), round((covering[1] - w) / 2)
            return _resize(pixels, covering)[None, :, top : top + h, left : left + w]
        case "tile":
            padded = _pad(_pad(pixels, w).mT, h).mT
            tops, lefts = plan.tops, plan.lefts
            return torch.stack([padded[:, y : y + h, x : x + w] for y in tops for x in lefts])


def assemble(patches: Sequence[torch.Tensor] | torch.Tensor, plan: FitPlan) -> torch.Tensor:
    """Puts the model's results together: the inverse of `cut` for "exact" and "tile".

    Where tiles overlap, the result is their mean, with weights that fall smoothly towards the border of each
    tile so that no seam shows. A weight is the product of one for the row and one for the column, and each of
    these sums to 1 over the tiles of its axis.

    Args:
        patches: T of (C, h, w).
        plan: the plan by which they were cut.

    Returns:
        (C, height, width), of `plan.output_size`.
    """
    if plan.mode != "tile":
        return patches[0]
    (height, width), (h, w) = plan.image_size, plan.size
    canvas = patches[0].new_zeros(len(patches[0]), max(height, h), max(width, w))
    tops, lefts = plan.tops, plan.lefts
    rows, columns = _weights(tops, h).to(canvas), _weights(lefts, w).to(canvas)
    places = [(i, j) for i in range(len(tops)) for j in range(len(lefts))]
    for patch, (i, j) in zip(patches, places, strict=True):
        top, left = tops[i], lefts[j]
        canvas[:, top : top + h, left : left + w] += patch * rows[i, :, None] * columns[j]
    top, left = (canvas.shape[1] - height) // 2, (canvas.shape[2] - width) // 2
    return canvas[:, top : top + height, left : left + width]


def fit_alpha(alpha: torch.Tensor, plan: FitPlan) -> torch.Tensor:
    """The transparency of the result: (H, W) in [0, 1] -> `plan.output_size`; tiles leave it as it is."""
    return alpha if plan.mode in ("exact", "tile") else cut(alpha[None], plan)[0, 0]


def _resize(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(C, H, W) -> (C, *size); bicubic overshoots at edges, hence the clamp."""
    return interpolate(pixels[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _pad(pixels: torch.Tensor, width: int) -> torch.Tensor:
    """Widens (C, H, W) to `width` on both sides by its mirror image, or its border if too short for that."""
    missing = max(0, width - pixels.shape[-1])
    left, right = missing // 2, missing - missing // 2
    return pad(pixels, (left, right, 0, 0), mode="reflect" if right < pixels.shape[-1] else "replicate")


def _weights(starts: tuple[int, ...], tile: int) -> torch.Tensor:
    """(tiles, tile): how much each tile counts along one axis; positive, with the sum 1 at every pixel."""
    window = torch.sin(torch.pi * (torch.arange(tile, dtype=torch.float64) + 0.5) / tile) ** 2
    total = torch.zeros(starts[-1] + tile, dtype=torch.float64)
    for start in starts:
        total[start : start + tile] += window
    return torch.stack([window / total[start : start + tile] for start in starts])
