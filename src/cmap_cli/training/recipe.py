"""The recipes of the U-Net for ``cmap train --preset``, and their schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cmap_cli.choices import LossWeight, Optimiser, Preconditioning, TrainingPreset, Tuning


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Denoising pre-training, then consistency tuning, in one run with one learning-rate schedule.

    During the tuning a part of each batch is still used for denoising, so that ``denoise`` stays as good as before. f
    is tuned only above a level; below it f is the closed form with the denoiser's correction.

    The learning rate is constant after the warm-up and falls linearly to 0 at the end. Before the tuning and the fall
    begin, nothing depends on how many images will be seen, so a run can be made longer.

    Attributes:
        images: total number of training images that are used, with repetitions.
        denoising: share of them that pre-trains the denoiser.
        tuning_denoising: share of each batch of the tuning that is used for denoising.
        decay: share of the iterations, at the end, over which the learning rate falls.
        batch_size: images per iteration.
        widths: channels of each level of the U-Net.
        blocks: residual blocks per level.
        preconditioning: what the network is added to: "gaussian" (closed form) or "plain" (c_skip·x).
        optimiser: "muon" (for the convolutions inside; Adam for the rest) or "adam".
        lr: peak learning rate.
        warmup: iterations of the linear warm-up.
        weight: weight of the denoiser's squared error at a level.
        denoising_mean: mean of ln t for denoising; t is clamped to [t_min, t_max].
        denoising_std: its standard deviation.
        uniform: share of these levels that are instead log-uniform between t_min and t_max.
        consistency_mean: mean of ln t in consistency tuning.
        consistency_std: its standard deviation.
        tuned_from: lowest t of consistency tuning.
        tuning: "consistency" (f gives the same result at two levels of the same noise) or "trajectory" (f maps points
            of the denoiser's ODE that starts at a real image back to this image).
        trajectory_steps: "trajectory": points per image; an iteration has fewer images by this factor.
        trajectory_start: "trajectory": level at which the ODE begins.
        ratio_start: q of the first iteration of tuning; pairs are (t, r) with r = t·(1 − 1/q).
        ratio_end: q of the last iteration; q grows geometrically in between.
        huber: c of the pseudo-Huber loss √(‖Δ‖² + c²) − c.
        half_lives: half-lives of the two averages of the weights, in images.
        seed: seed of weights, order, levels, noise and flips.
        checkpoint_every: iterations between checkpoints.
    """

    images: int = 560_000
    denoising: float = 0.6
    tuning_denoising: float = 0.5
    decay: float = 0.3
    batch_size: int = 64
    widths: tuple[int, ...] = (64, 96, 128, 128)
    blocks: int = 1
    preconditioning: Preconditioning = "gaussian"
    optimiser: Optimiser = "muon"
    lr: float = 1e-3
    warmup: int = 200
    weight: LossWeight = "edm"
    denoising_mean: float = -1.2
    denoising_std: float = 1.2
    uniform: float = 0.1
    consistency_mean: float = 2.2
    consistency_std: float = 1.3
    tuned_from: float = 1.0
    tuning: Tuning = "consistency"
    trajectory_steps: int = 8
    trajectory_start: float = 0.05
    ratio_start: float = 2.0
    ratio_end: float = 8.0
    huber: float = 0.03
    half_lives: tuple[float, float] = (10_000.0, 80_000.0)
    seed: int = 0
    checkpoint_every: int = 500

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
        """The learning rate of a 0-based iteration."""
        fall = (self.iterations - iteration) / max(1.0, self.decay * self.iterations)
        return self.lr * min(1.0, (iteration + 1) / self.warmup, fall)

    def ratio_at(self, iteration: int) -> float:
        """Q of an iteration of the consistency tuning."""
        done = (iteration - self.denoising_iterations) / max(1, self.iterations - self.denoising_iterations)
        return self.ratio_start * math.exp(math.log(self.ratio_end / self.ratio_start) * done)

    def ema_decays_at(self, iteration: int) -> list[float]:
        """The share of each old average that an iteration keeps; less in the beginning, when weights move far."""
        beginning = (1 + iteration) / (10 + iteration)
        return [min(math.exp2(-self.batch_size / half_life), beginning) for half_life in self.half_lives]


RECIPES: dict[TrainingPreset, TrainingConfig] = {
    "bundled": TrainingConfig(),
    "accelerator": TrainingConfig(
        images=40_000_000,
        denoising=0.5,
        batch_size=2048,
        lr=2e-3,
        warmup=500,
        ratio_end=64.0,
        half_lives=(100_000.0, 1_000_000.0),
        checkpoint_every=1000,
    ),
}
"""``bundled`` has the network of the weights in the package and a CPU's budget, ``accelerator`` that of a GPU.

The weights in the package were made by an earlier recipe, which their card has: Adam with a cosine schedule.
"""
