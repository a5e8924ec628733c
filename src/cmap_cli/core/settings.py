"""The settings of a purification, and the presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from cmap_cli.choices import Method, Preset, Schedule, Start
from cmap_cli.core.types import ConsistencyModel, HasDenoiser, has_inverse
from cmap_cli.errors import CmapError, UsageError, raise_all


@dataclass(frozen=True, slots=True)
class PurifyConfig:
    """The settings of a purification; the defaults are the paper's CIFAR-10 row.

    Attributes:
        num_latents: K, latents per image; with ``method="denoise"`` draws of the noise.
        steps: iterations of Adam; 0 with ``method="denoise"``.
        lr: Adam's learning rate, in units of the latents (their standard deviation is t_max = 80).
        betas: Adam's decay rates.
        scale: factor of the whole objective.
        perceptual_weight: λ_s.
        latent_weight: λ_d.
        lr_schedule: "constant" as in the paper, or "cosine" from lr down to 0 over the steps.
        gain_limit: of the preconditioner (:mod:`cmap_cli.core.precondition`); 0 for none, as in the paper.
        straight_through: whether the clip to [-1, 1] lets gradients through; in the paper clipped pixels get none.
        start: "prior" from z ~ N(0, t_max² I), as in the paper; "inverse" from latents that already generate nearly the
            image, with models that have an inverse (:class:`~cmap_cli.core.types.HasInverse`).
        denoise_level: noise level that the candidates are taken to and denoised from at the end, by models that have a
            denoiser (:class:`~cmap_cli.core.types.HasDenoiser`); 0 for no denoising, as in the paper.
        method: "optimise" latents, as in the paper; "denoise" for the last denoising alone, of the image itself: K
            candidates are K draws of its noise.
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
    denoise_level: float = 0.0
    method: Method = "optimise"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work (ValueError)."""
        if self.num_latents < 1:
            raise ValueError(f"num_latents must be at least 1, not {self.num_latents}")
        if self.method == "optimise" and self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.method == "denoise" and (self.steps != 0 or self.denoise_level <= 0):
            raise ValueError(f"denoising takes no steps and a level above 0, not {self.steps} and {self.denoise_level}")
        if not 0 <= self.denoise_level < math.inf:
            raise ValueError(f"denoise_level must be a number of 0 or more, not {self.denoise_level}")
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
    "denoise_level": 0.15,
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
"""What the quick presets change for models with an inverse: the inverse is a start that is close to the result."""


@runtime_checkable
class HasPresets(Protocol):
    """A model with settings of its own for some presets.

    Attributes:
        presets: its settings by preset; for other presets the general settings apply.
    """

    @property
    def presets(self) -> Mapping[Preset, PurifyConfig]: ...


def preset_for(preset: Preset, model: ConsistencyModel) -> PurifyConfig:
    """The settings of a preset for a model."""
    if isinstance(model, HasPresets) and preset in model.presets:
        return model.presets[preset]
    return optimising_preset(preset, model)


def optimising_preset(preset: Preset, model: ConsistencyModel) -> PurifyConfig:
    """The settings of a preset that optimise latents of a model."""
    changes = FROM_INVERSE.get(preset, {}) if has_inverse(model) else {}
    return dataclasses.replace(PRESETS[preset], **changes)


def resolve_config(
    preset: Preset,
    model: ConsistencyModel,
    *,
    method: Method | None = None,
    steps: int | None = None,
    num_latents: int | None = None,
    denoise_level: float | None = None,
) -> PurifyConfig:
    """The settings of a preset for a model, with some of them changed; None keeps the preset's value.

    Raises:
        UsageError: a value does not go with the others or with the model.
    """
    config = preset_for(preset, model)
    if method == "optimise" and config.method == "denoise":
        config = optimising_preset(preset, model)
    chosen = method or config.method
    level = config.denoise_level if denoise_level is None else denoise_level
    problems: list[CmapError] = []
    if level and not isinstance(model, HasDenoiser) and (denoise_level or chosen == "denoise"):
        problems.append(UsageError("this model has no denoiser", "leave out --method denoise and --denoise-level"))
    if chosen == "denoise" and not level:
        problems.append(UsageError("--method denoise needs a noise level above 0", "--denoise-level 0.15"))
    if chosen == "denoise" and steps is not None:
        problems.append(UsageError("--steps does not go with denoising alone, which takes none", "--method optimise"))
    raise_all(problems)
    return dataclasses.replace(
        config,
        method=chosen,
        steps=0 if chosen == "denoise" else steps or config.steps,
        num_latents=num_latents or config.num_latents,
        denoise_level=level,
    )
