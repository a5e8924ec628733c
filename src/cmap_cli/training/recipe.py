"""How a U-Net is trained: schedules, and the recipes behind ``cmap train --preset``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cmap_cli.choices import Preconditioning, TrainingPreset


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Denoising pre-training, then consistency tuning, in one run with one learning-rate schedule.

    Tuning goes on denoising with a part of each batch, so that ``denoise`` stays what it was, and tunes f above a level
    only; below it f is the closed form with the denoiser's correction.

    Attributes:
        images: how many training images are seen in all.
        denoising: the share of them that pre-trains the denoiser.
        tuning_denoising: the share of each batch of the tuning that still denoises.
        batch_size: images an iteration.
        widths: channels of each level of the U-Net.
        blocks: residual blocks a level.
        preconditioning: what the network is added to: "gaussian" (closed form) or "plain" (c_skip·x).
        lr: peak learning rate of Adam; a linear warm-up, then a cosine down to 0.
        warmup: iterations of the warm-up.
        denoising_mean: mean of ln t where the network denoises; t is clamped to [t_min, t_max].
        denoising_std: its standard deviation.
        consistency_mean: mean of ln t in consistency tuning.
        consistency_std: its standard deviation.
        tuned_from: the lowest t of consistency tuning.
        ratio_start: q of the first iteration of tuning; pairs are (t, r) with r = t·(1 − 1/q).
        ratio_end: q of the last iteration; it grows geometrically between.
        huber: c of the pseudo-Huber loss √(‖Δ‖² + c²) − c.
        ema_half_life: of the averaged weights, in images.
        seed: of weights, order, levels, noise and flips.
        checkpoint_every: iterations between checkpoints.
    """

    images: int = 560_000
    denoising: float = 0.6
    tuning_denoising: float = 0.5
    batch_size: int = 64
    widths: tuple[int, ...] = (64, 96, 128, 128)
    blocks: int = 1
    preconditioning: Preconditioning = "gaussian"
    lr: float = 8e-4
    warmup: int = 200
    denoising_mean: float = -0.8
    denoising_std: float = 1.2
    consistency_mean: float = 2.2
    consistency_std: float = 1.3
    tuned_from: float = 1.0
    ratio_start: float = 2.0
    ratio_end: float = 8.0
    huber: float = 0.03
    ema_half_life: float = 20_000
    seed: int = 0
    checkpoint_every: int = 100

    @property
    def iterations(self) -> int:
        """How many optimiser steps there are."""
        return math.ceil(self.images / self.batch_size)

    @property
    def denoising_iterations(self) -> int:
        """How many of them pre-train the denoiser."""
        return round(self.iterations * self.denoising)

    def denoises_at(self, iteration: int) -> bool:
        """Whether a 0-based iteration belongs to the pre-training."""
        return iteration < self.denoising_iterations

    def denoised_at(self, iteration: int) -> int:
        """How many images of an iteration's batch are denoised; the others are tuned on."""
        return self.batch_size if self.denoises_at(iteration) else round(self.batch_size * self.tuning_denoising)

    def lr_at(self, iteration: int) -> float:
        """The learning rate of an iteration."""
        warmup = min(1.0, (iteration + 1) / self.warmup)
        return self.lr * warmup * (1 + math.cos(math.pi * iteration / self.iterations)) / 2

    def ratio_at(self, iteration: int) -> float:
        """Q of an iteration of the consistency tuning."""
        done = (iteration - self.denoising_iterations) / max(1, self.iterations - self.denoising_iterations)
        return self.ratio_start * math.exp(math.log(self.ratio_end / self.ratio_start) * done)

    def ema_decay_at(self, iteration: int) -> float:
        """The share of the old average that an iteration keeps; less in the beginning, when weights move far."""
        return min(math.exp2(-self.batch_size / self.ema_half_life), (1 + iteration) / (10 + iteration))


RECIPES: dict[TrainingPreset, TrainingConfig] = {
    "bundled": TrainingConfig(),
    "accelerator": TrainingConfig(
        images=40_000_000,
        denoising=0.5,
        batch_size=2048,
        blocks=1,
        lr=2e-3,
        warmup=500,
        ratio_end=64.0,
        ema_half_life=500_000,
        checkpoint_every=1000,
    ),
}
"""``bundled`` made the weights in the wheel, on a CPU; ``accelerator`` is its network with the budget of a GPU."""
