"""PIL images, NumPy arrays and tensors <-> tensors in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cmap_cli.data.images import to_channels, to_uint8
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all

TOLERANCE = 1e-6
MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
KINDS = "give PIL images, NumPy arrays (H, W, C) or tensors (C, H, W), one or a list of them, or one batch"


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One image.

    Attributes:
        colour: (C, H, W) float32 in [0, 1] on the CPU, C is 1 or 3.
        alpha: (H, W), if there is any.
        rounds: whether its values are integers.
    """

    colour: Tensor
    alpha: Tensor | None = None
    rounds: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Unpacked:
    """Images, and a function that converts results into the given type.

    Attributes:
        images: single images.
        pack: the same number of results -> the given container, types and numbers of channels.
    """

    images: list[Pixels]
    pack: Callable[[list[Pixels]], Any]


def unpack(images: Any) -> Unpacked:
    """Separate the images of a container.

    Args:
        images: a PIL image (L, LA, RGB, RGBA); a NumPy array (H, W, C) or (N, H, W, C), or a tensor (C, H, W) or
            (N, C, H, W), of 1 or 3 channels, floats in [0, 1] or uint8; or a list or tuple of such images.

    Raises:
        UsageError: something else; values outside [0, 1]; integers that are not uint8.
    """
    if isinstance(images, Image.Image):
        return unpack_picture(images)
    if isinstance(images, np.ndarray):
        return unpack_array(images)
    if isinstance(images, Tensor):
        return unpack_tensor(images)
    if isinstance(images, (list, tuple)):
        return unpack_sequence(images)
    raise UsageError(f"images cannot be of the type {type(images).__name__}", KINDS)


def unpack_sequence(images: Sequence[Any]) -> Unpacked:
    """A list or tuple of single images, each of its own kind and size."""
    problems: list[CmapError] = []
    parts: list[Unpacked] = []
    for number, image in enumerate(images):
        with collecting(problems):
            if isinstance(image, (list, tuple)) or getattr(image, "ndim", 3) != 3:
                raise UsageError(f"images[{number}] is not a single image", KINDS)
            parts.append(unpack(image))
    raise_all(problems)

    def pack(results: list[Pixels]) -> Any:
        packed = [part.pack([result]) for part, result in zip(parts, results, strict=True)]
        return packed if isinstance(images, list) else tuple(packed)

    return Unpacked([part.images[0] for part in parts], pack)


def unpack_picture(picture: Image.Image) -> Unpacked:
    """A PIL image."""
    if picture.mode not in MODES:
        raise UsageError(f"a PIL image has the mode {picture.mode}", 'image.convert("RGB") is taken')
    planes = torch.from_numpy(np.array(picture, np.float32)) / 255
    planes = planes[None] if planes.ndim == 2 else planes.movedim(-1, 0)
    has_alpha = picture.mode.endswith("A")

    def pack(results: list[Pixels]) -> Image.Image:
        colour = to_channels(results[0].colour, MODES[picture.mode] - has_alpha)
        alpha = results[0].alpha
        stacked = colour if alpha is None else torch.cat([colour, alpha[None]])
        values = to_uint8(stacked).movedim(0, -1).contiguous().numpy()
        return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)

    colour = (planes[:-1] if has_alpha else planes).contiguous()
    return Unpacked([Pixels(colour, planes[-1] if has_alpha else None, rounds=True)], pack)


def unpack_array(array: np.ndarray[Any, Any]) -> Unpacked:
    """A NumPy array, channels last."""
    if array.ndim not in (3, 4) or array.shape[-1] not in (1, 3):
        channels_first = array.ndim in (3, 4) and array.shape[-3] in (1, 3)
        hint = "move the channels to the end: np.moveaxis(x, -3, -1)" if channels_first else KINDS
        raise UsageError(f"a NumPy array has the shape {array.shape}, not (H, W, C) or (N, H, W, C)", hint)
    if array.dtype.kind not in "fu" or (array.dtype.kind == "u" and array.dtype != np.uint8):
        raise UsageError(f"a NumPy array has numbers of type {array.dtype}", "give floats in [0, 1] or uint8")
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.uint8 if array.dtype.kind == "u" else np.float32))
    unpacked = unpack_tensor(tensor.movedim(-1, -3))

    def pack(results: list[Pixels]) -> np.ndarray[Any, Any]:
        packed: Tensor = unpacked.pack(results)
        return np.ascontiguousarray(packed.movedim(-3, -1).numpy().astype(array.dtype, copy=False))

    return Unpacked(unpacked.images, pack)


def unpack_tensor(tensor: Tensor) -> Unpacked:
    """A tensor, channels first."""
    if tensor.ndim not in (3, 4) or tensor.shape[-3] not in (1, 3):
        channels_last = tensor.ndim in (3, 4) and tensor.shape[-1] in (1, 3)
        hint = "move the channels to the front: x.movedim(-1, -3)" if channels_last else KINDS
        raise UsageError(f"a tensor has the shape {tuple(tensor.shape)}, not (C, H, W) or (N, C, H, W)", hint)
    rounds = tensor.dtype == torch.uint8
    if not (rounds or tensor.is_floating_point()):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UsageError(f"a tensor has numbers of type {kind}", "give floats in [0, 1] or uint8")
    values = tensor.detach().to("cpu", torch.float32)
    values = values / 255 if rounds else in_range(values)
    batch = values if values.ndim == 4 else values[None]

    def pack(results: list[Pixels]) -> Tensor:
        if not results:
            return tensor
        stacked = torch.stack([to_channels(result.colour, tensor.shape[-3]) for result in results])
        packed = (to_uint8(stacked) if rounds else stacked).to(tensor.device, tensor.dtype)
        return packed if tensor.ndim == 4 else packed[0]

    return Unpacked([Pixels(image.contiguous(), rounds=rounds) for image in batch], pack)


def in_range(values: Tensor) -> Tensor:
    """Floats that are in [0, 1], up to rounding (UsageError if they are not)."""
    if not values.numel():
        return values
    low, high = float(values.min()), float(values.max())
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:  # no comparison with NaN holds
        return values.clamp(0, 1)
    hint = "look for values that are not finite"
    if low >= 0 and 1 < high <= 255:
        hint = "divide by 255: x / 255"
    elif low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        hint = "images in [-1, 1] become (x + 1) / 2"
    elif np.isfinite(low) and np.isfinite(high):
        hint = "undo the normalisation: x * std + mean"
    raise UsageError(f"images have values from {low:g} to {high:g}, not in [0, 1]", hint)
