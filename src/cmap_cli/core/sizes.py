"""Images of any size: which sizes a model takes, padding to multiples of its stride, windows of large images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from cmap_cli.core.types import ConsistencyModel, TakesAnySize

WINDOW = 1024
"""Largest side, in pixels, of the part of a window that is used; the margins are added to it."""


def check_shape(model: ConsistencyModel, x: Tensor) -> None:
    """Refuse images that the model does not take (ValueError)."""
    shape = tuple(model.image_shape)
    if isinstance(model, TakesAnySize):
        if x.ndim != 4 or x.shape[1] != shape[0] or 0 in x.shape[2:]:
            raise ValueError(f"images are {tuple(x.shape)}, the model needs (B, {shape[0]}, H, W)")
    elif x.ndim != 4 or tuple(x.shape[1:]) != shape:
        raise ValueError(f"images are {tuple(x.shape)}, the model needs (B, *{shape})")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(N, C, H, W) extended at the right and at the bottom by reflection, or by repetition where it is too small."""
    height, width = x.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if not right and not bottom:
        return x
    return F.pad(x, (0, right, 0, bottom), "reflect" if right < width and bottom < height else "replicate")


def at_any_size(model: object, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of the model for images x, (N, C, H, W): padded to the model's stride, and cropped afterwards."""
    if not isinstance(model, TakesAnySize):
        return function(x)
    return function(pad_to_multiple(x, model.stride))[..., : x.shape[-2], : x.shape[-1]]


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image that the model is given, and the part of it that is used.

    Attributes:
        given: (rows, columns) of the image that the model is given.
        used: (rows, columns) of the image whose results are used.
        inside: (rows, columns) of the used part, counted from the given part's corner.
    """

    given: tuple[slice, slice]
    used: tuple[slice, slice]
    inside: tuple[slice, slice]


def windows(model: object, height: int, width: int) -> list[Window]:
    """The windows of an image, in rows; a single one unless the model takes any size and the image is large.

    Each window begins at multiples of the stride. It extends beyond its used part by the receptive radius, or to the
    image's border. The used part is then the same as in one pass over the whole image.
    """
    everything = slice(0, height), slice(0, width)
    if not isinstance(model, TakesAnySize):
        return [Window(everything, everything, everything)]
    stride = model.stride
    margin = max(1, -(-model.receptive_radius // stride)) * stride
    if height * width <= (WINDOW + 2 * margin) ** 2:
        return [Window(everything, everything, everything)]
    return [
        Window((rows[0], columns[0]), (rows[1], columns[1]), (rows[2], columns[2]))
        for rows in spans(height, stride, margin)
        for columns in spans(width, stride, margin)
    ]


def spans(length: int, stride: int, margin: int) -> Iterator[tuple[slice, slice, slice]]:
    """The given, used and inside part of each window along one axis; all windows have about the same length."""
    count = -(-length // WINDOW)
    step = -(-length // (count * stride)) * stride
    for start in range(0, length, step):
        stop = min(start + step, length)
        first, last = max(0, start - margin), min(length, stop + margin)
        yield slice(first, last), slice(start, stop), slice(start - first, stop - first)
