"""How many images fit into memory at once, computed from the memory that one image needs for the backward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.device import choose_batch_size, saved_bytes

PROBED_STRIDES = 8
SMALL = 64
"""Pixels of a side. For larger pictures, larger batches are not faster, so fewer pictures are processed at once."""


def patch_batch_size(
    purifier: Purifier, device: torch.device, sharers: int = 1, size: tuple[int, int] | None = None
) -> int:
    """How many patches fit on the device at once, computed from the memory that one patch needs for the backward pass.

    Args:
        purifier: the method on a model.
        device: where.
        sharers: number of processes that share its memory.
        size: (height, width) of the patches, for a model that takes any size; by default the model's own size.
    """
    channels, *own = purifier.model.image_shape
    height, width = size or own
    if not isinstance(purifier.model, TakesAnySize):
        return choose_batch_size(sharers * kept_bytes(purifier, device, (channels, height, width)), device)
    pixels, side = height * width, PROBED_STRIDES * purifier.model.stride
    most = choose_batch_size(0, device) * SMALL**2 // pixels
    if most <= 1:
        return 1
    probed = min(height, side), min(width, side)  # memory grows as the number of pixels
    kept = kept_bytes(purifier, device, (channels, *probed)) * pixels // (probed[0] * probed[1])
    return min(choose_batch_size(sharers * kept, device), most)


def kept_bytes(purifier: Purifier, device: torch.device, shape: tuple[int, int, int]) -> int:
    """Bytes that the backward pass through one image's latents needs, for one step or one denoising."""
    x = torch.rand(1, *shape, device=device)
    if purifier.config.method == "denoise":
        one_draw = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, num_latents=1))
        noises = one_draw.noises(x, image_generators(x, 0))
        return saved_bytes(lambda: one_draw.denoised(x.requires_grad_(), noises))
    one_step = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, steps=1))
    labels = some_labels(purifier, 1, device)
    return saved_bytes(lambda: one_step(x, image_generators(x, 0), labels=labels).samples)


def some_labels(purifier: Purifier, count: int, device: torch.device) -> Tensor | None:
    """Labels for a model that needs some."""
    return torch.zeros(count, dtype=torch.int64, device=device) if num_classes(purifier.model) else None


def common_batch_size(fitting: Sequence[int]) -> int:
    """The batch size that fits on every device, rounded down to a power of two so that similar machines get the same.

    Args:
        fitting: patches that fit on the device of each process of a job.
    """
    return 1 << max(1, min(fitting)).bit_length() - 1


def even_batches(patches: int, most: int) -> int:
    """The batch size with which the last batch has as few empty places as possible.

    Args:
        patches: of all images, also of those that are done and of those of other shards: the size is the same for all.
        most: largest batch that fits into memory.
    """
    batches = -(-max(1, patches) // most)
    return -(-max(1, patches) // batches)
