"""Means and deviations that published CIFAR-10 classifiers were trained with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per-channel (x − mean) / std.

    Plain numbers, not buffers: published state dicts do not hold them, and a buffer outside the state dict would stay
    empty in a network that is built on the meta device and then given its weights.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W) -> the same, standardised per channel."""
        mean = x.new_tensor(self.mean)[:, None, None]
        std = x.new_tensor(self.std)[:, None, None]
        return (x - mean) / std


CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
# The deviations are near the mean of every single image's, not those of all pixels; the usual slip of early CIFAR code.
CIFAR10_PER_IMAGE = Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
