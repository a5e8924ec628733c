"""How the photograph model is trained: schedules, and the recipes behind ``cmap train --kind photo --preset``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cmap_cli.choices import LossWeight, Optimiser, TrainingPreset


@dataclass(frozen=True, slots=True)
class Stage:
    """Size and number of crops from iteration ``start`` on, until the next stage.

    Attributes:
        start: first iteration, from 0.
        side: height and width of the crops, pixels; a multiple of the model's stride.
        batch_size: crops per iteration.
    """

    start: int
    side: int
    batch_size: int


@dataclass(frozen=True, slots=True)
class PhotoConfig:
    """Denoising of crops of photographs.

    The learning rate is constant after the warm-up and falls linearly to 0 at the end. Until it falls, nothing depends
    on how many iterations there will be, so a run can be made longer.

    Attributes:
        iterations: number of optimiser steps.
        decay: number of last steps during which the learning rate falls.
        stages: sizes of crops and batches, the first from iteration 0.
        widths: channels of each level of the network.
        blocks: residual blocks of each level but the last, down and up.
        middle: residual blocks of the last level.
        optimiser: "muon" (for the 3×3 and 2×2 convolutions inside; Adam for the rest) or "adam".
        lr: peak learning rate.
        warmup: iterations of the linear warm-up.
        level_mean: mean of ln t.
        level_std: its standard deviation.
        uniform: share of levels that are instead log-uniform between t_min and t_max.
        weight: of the squared error at a level.
        half_lives: half-lives of the two averages of the weights, in iterations.
        seed: seed of weights, crops, levels and noise.
        checkpoint_every: iterations between checkpoints.
    """

    iterations: int = 18_500
    decay: int = 5_500
    stages: tuple[Stage, ...] = (Stage(0, 64, 16), Stage(10_000, 96, 16))
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 2
    middle: int = 3
    optimiser: Optimiser = "muon"
    lr: float = 1e-3
    warmup: int = 200
    level_mean: float = -1.6
    level_std: float = 0.8
    uniform: float = 0.1
    weight: LossWeight = "edm"
    half_lives: tuple[float, float] = (150.0, 1500.0)
    seed: int = 0
    checkpoint_every: int = 500

    @property
    def batch_size(self) -> int:
        """Crops per iteration at the end."""
        return self.stages[-1].batch_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the crops at the end."""
        return (3, self.stages[-1].side, self.stages[-1].side)

    def stage_at(self, iteration: int) -> Stage:
        """The stage of a 0-based iteration."""
        return max((stage for stage in self.stages if stage.start <= iteration), key=lambda stage: stage.start)

    def images_until(self, iteration: int) -> int:
        """Number of crops in the first ``iteration`` iterations."""
        ends = [*(stage.start for stage in self.stages[1:]), iteration]
        return sum(
            max(0, min(end, iteration) - stage.start) * stage.batch_size
            for stage, end in zip(self.stages, ends, strict=True)
        )

    def lr_at(self, iteration: int) -> float:
        """The learning rate of a 0-based iteration."""
        warmup = (iteration + 1) / self.warmup
        fall = (self.iterations - iteration) / self.decay
        return self.lr * min(1.0, warmup, fall)

    def ema_decays_at(self, iteration: int) -> list[float]:
        """The share of each old average that an iteration keeps; less in the beginning, when weights move far."""
        beginning = (1 + iteration) / (10 + iteration)
        return [min(math.exp2(-1 / half_life), beginning) for half_life in self.half_lives]


PHOTO_RECIPES: dict[TrainingPreset, PhotoConfig] = {
    "bundled": PhotoConfig(),
    "accelerator": PhotoConfig(
        iterations=60_000,
        decay=15_000,
        stages=(Stage(0, 64, 256), Stage(30_000, 128, 128)),
        warmup=500,
        half_lives=(500.0, 5000.0),
        checkpoint_every=1000,
    ),
}
"""``bundled`` is the recipe of the weights in the package, for a CPU; ``accelerator`` trains it longer, for a GPU."""
