"""The settings of a purification, and the presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from cmap_cli.choices import Preset, Schedule, Start
from cmap_cli.core.types import ConsistencyModel, has_inverse


@dataclass(frozen=True, slots=True)
class PurifyConfig:
    """The settings of a purification; the defaults are the paper's CIFAR-10 row.

    Attributes:
        num_latents: K, latents an image.
        steps: iterations of Adam.
        lr: Adam's learning rate, in units of the latents (their standard deviation is t_max = 80).
        betas: Adam's decay rates.
        scale: factor of the whole objective.
        perceptual_weight: λ_s.
        latent_weight: λ_d.
        lr_schedule: "constant" as in the paper, or "cosine" from lr down to 0 over the steps.
        gain_limit: of the preconditioner (:mod:`cmap_cli.core.precondition`); 0 for none, as in the paper.
        straight_through: whether the clip to [-1, 1] lets gradients through; in the paper clipped pixels get none.
        start: "prior" from z ~ N(0, t_max² I), as in the paper; "inverse" from latents that already generate about the
            image, with models that have an inverse (:class:`~cmap_cli.core.types.HasInverse`).
        refine_sigma: noise level that the candidates are taken to and denoised from at the end, by models that have a
            denoiser (:class:`~cmap_cli.core.types.HasDenoiser`); 0 for not, as in the paper.
    """

    num_latents: int = 10
    steps: int = 200
    lr: float = 2.0
    betas: tuple[float, float] = (0.9, 0.99)
    scale: float = 1.0
    perceptual_weight: float = 2.0
    latent_weight: float = 0.0005
    lr_schedule: Schedule = "constant"
    gain_limit: float = 0.0
    straight_through: bool = False
    start: Start = "prior"
    refine_sigma: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work (ValueError)."""
        if self.num_latents < 1:
            raise ValueError(f"num_latents must be at least 1, not {self.num_latents}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be a positive number, not {self.lr}")

    def lr_at(self, step: int) -> float:
        """The learning rate of 0-based ``step``."""
        if self.lr_schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2


QUICKER: dict[str, Any] = {
    "latent_weight": 0.00005,
    "lr_schedule": "cosine",
    "gain_limit": 30.0,
    "straight_through": True,
    "refine_sigma": 0.15,
}
PRESETS: dict[Preset, PurifyConfig] = {
    "fast": PurifyConfig(steps=8, **QUICKER),
    "balanced": PurifyConfig(steps=30, **QUICKER),
    "paper": PurifyConfig(),
    "paper-imagenet100": PurifyConfig(
        num_latents=5, steps=300, scale=0.005, perceptual_weight=0.5, latent_weight=0.0002
    ),
}
"""The paper's rows as published (arXiv 2412.08394), and cheaper settings found by measurement (docs/lab/presets.md)."""

FROM_INVERSE: dict[Preset, dict[str, Any]] = {
    "fast": {"steps": 3, "lr": 0.3, "start": "inverse"},
    "balanced": {"steps": 8, "lr": 0.3, "start": "inverse"},
}
"""What the quick presets change for models with an inverse, which starts them near their end."""


def preset_for(preset: Preset, model: ConsistencyModel) -> PurifyConfig:
    """The settings of a preset for a model."""
    changes = FROM_INVERSE.get(preset, {}) if has_inverse(model) else {}
    return dataclasses.replace(PRESETS[preset], **changes)
