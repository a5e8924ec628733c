"""The input that a classifier declares: size of pictures in [0, 1], and mean and deviation of their channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmap_cli.choices import Interpolation
from cmap_cli.errors import UsageError
from cmap_cli.models.networks.normalisation import CIFAR10, IMAGENET

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((), ()),
    "cifar10": (CIFAR10.mean, CIFAR10.std),
    "imagenet": (IMAGENET.mean, IMAGENET.std),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Normalisations of images in [0, 1] that the user can name for a classifier file; "half" gives [-1, 1]."""


@dataclass(frozen=True, slots=True)
class InputSize:
    """The size of the pictures that a network was trained on, and how a picture of another size is brought to it.

    Attributes:
        height: of the picture that the network gets.
        width: of it.
        short_side: a larger picture, or one of another shape, is resized until its short side has so many pixels, and
            its middle is cut out; 0: it is squeezed to height and width. A smaller one of the same shape is taken to be
            cut out already, and only enlarged.
        interpolation: of the resizing, which is antialiased.
    """

    height: int
    width: int
    short_side: int = 0
    interpolation: Interpolation = "bilinear"

    def fit(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) in [0, 1] -> (N, C, height, width), differentiable; of that size, as they are."""
        height, width = x.shape[-2:]
        if (height, width) == (self.height, self.width):
            return x
        same_shape = height * self.width == width * self.height
        if not self.short_side or (same_shape and height < self.height):
            return resized(x, (self.height, self.width), self.interpolation)
        x = resized(x, covering((height, width), self.short_side), self.interpolation)
        top, left = (x.shape[-2] - self.height) // 2, (x.shape[-1] - self.width) // 2
        return x[..., top : top + self.height, left : left + self.width]


def covering(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of a picture when its short side has so many pixels."""
    height, width = size
    if height <= width:
        return short_side, short_side * width // height
    return short_side * height // width, short_side


def resized(x: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Pictures (N, C, H, W) in [0, 1] in another size; bicubic overshoots at edges, hence the clamp."""
    x = nn.functional.interpolate(x, size, mode=interpolation, antialias=True)
    return x.clamp(0, 1) if interpolation == "bicubic" else x


class PreparedClassifier(nn.Module):
    """A network behind the preprocessing that it declares: input size, mean and deviation.

    Args:
        network: takes normalised images.
        size: that images are brought to; None leaves them unchanged.
        mean: subtracted from images; () for no normalisation.
        std: images are divided by it.
    """

    def __init__(
        self, network: nn.Module, size: InputSize | None, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean or 0.0).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std or 1.0).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W), of any size -> logits (N, classes)."""
        if self.size is not None:
            x = self.size.fit(x)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def parse_normalisation(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation: a name of NORMALISATIONS, or three means, a slash and three deviations.

    Raises:
        UsageError: it is neither.
    """
    if text in NORMALISATIONS:
        return NORMALISATIONS[text]
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean = std = ()
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise UsageError(
            f"the normalisation {text!r} is neither {', '.join(NORMALISATIONS)} nor three means, a slash and three "
            "positive deviations"
        )
    return mean, std
