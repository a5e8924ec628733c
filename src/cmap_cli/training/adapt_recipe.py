"""How a classifier is adapted to denoised noisy images: the recipe behind ``cmap train --kind classifier``."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdaptationConfig:
    """Further training of a classifier, on training images with noise that a denoiser has removed.

    An iteration has ``batch_size / 2`` images, each with two samples of noise of one level. The loss is the cross
    entropy, plus ``agreement`` times the divergence of each prediction from the mean of the two (Jeong and Shin 2020,
    arXiv 2006.04062), because a certificate needs the same class for most samples of an image.

    The learning rate is constant after the warm-up and falls linearly to 0 at the end. Until it falls, nothing depends
    on how many images there will be, so a run can be made longer.

    Attributes:
        images: total number of noisy images that the training uses.
        batch_size: noisy images per iteration; even.
        sigmas: standard deviations of the noise, for images in [0, 1], drawn with equal probability.
        agreement: weight of the divergence.
        lr: peak learning rate of SGD with Nesterov's momentum 0.9.
        weight_decay: of SGD.
        warmup: iterations of the linear warm-up.
        decay: share of the iterations, at the end, over which the learning rate falls.
        kept: the first layers that have at most this share of the weights are not trained.
        margin: largest shift of an image 32 pixels high, in pixels; in proportion for larger images.
        seed: seed of the order of images, noise, flips and shifts.
        checkpoint_every: iterations between checkpoints.
    """

    images: int = 61_440
    batch_size: int = 128
    sigmas: tuple[float, ...] = (0.12, 0.25, 0.25, 0.5)
    agreement: float = 3.0
    lr: float = 0.02
    weight_decay: float = 5e-4
    warmup: int = 50
    decay: float = 0.5
    kept: float = 0.02
    margin: int = 4
    seed: int = 0
    checkpoint_every: int = 100

    @property
    def iterations(self) -> int:
        """How many optimiser steps there are."""
        return math.ceil(self.images / self.batch_size)

    def lr_at(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        fall = (self.iterations - iteration) / max(1.0, self.decay * self.iterations)
        return self.lr * min(1.0, (iteration + 1) / self.warmup, fall)
