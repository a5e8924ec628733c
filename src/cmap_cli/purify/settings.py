"""The settings of ``cmap purify`` and :func:`cmap_cli.purify_folder`, and which of them a resumed run must share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmap_cli.choices import (
    AUTO_MODEL,
    DEFAULT_CLASSIFIER,
    DEFAULT_MODEL,
    DEFAULT_PRESET,
    DEFAULT_SELECT,
    Fit,
    ImageFormat,
    LpipsTrunk,
    Method,
    Perceptual,
    Precision,
    Preset,
    Select,
    Vote,
)
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.settings import unusable_values

if TYPE_CHECKING:
    from cmap_cli.core.settings import PurifyConfig

NO_EFFECT: Mapping[str, str] = {
    "device": "a run may move to another device; results agree to rounding",
    "batch_size": "images do not depend on it, apart from rounding",
    "weights_dir": "the weights themselves are compared by their SHA-256",
}
"""Fields that a resumed run need not share, and why."""
RESOLVED = frozenset(
    {"preset", "method", "steps", "num_latents", "denoise_level", "perceptual", "lpips_trunk", "precision"}
)
"""Fields whose effect is compared instead: the whole PurifyConfig, the perceptual term, the precision used."""
KEYS: Mapping[str, str] = {"class_label": "class"}
"""Names in run.json that differ from the field's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PurifySettings:
    """How images are purified; names and defaults are those of the command line.

    Attributes:
        model: consistency model: "auto" takes ``cifar10-unet`` for pictures of 32×32 pixels and ``photo-unet`` for all
            others; or a name of the manifest, a folder, a file, ``hf:org/repo`` or ``package.module:factory``.
        preset: settings of the method; they depend on the model.
        method: "optimise" latents or "denoise" alone; None for the preset's.
        steps: optimisation steps; None for the preset's.
        num_latents: latents, or draws of noise, per image (K); None for the preset's.
        denoise_level: noise level of the denoising, 0 for none after an optimisation; None for the preset's.
        select: which of the K candidates is returned.
        classifier: classifies images before and after; None for none.
        normalisation: what a classifier file expects of images in [0, 1].
        vote: how the candidates' predictions are combined.
        perceptual: the perceptual term of the objective.
        lpips_trunk: the network of LPIPS.
        class_label: for a class-conditional model, the class of all images; None for the classifier's predictions.
        fit: what is done with images of another size than the model's, if it has one.
        max_tiles: ``fit="auto"`` tiles up to this number of tiles and refuses images that need more.
        seed: of the latents.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: what the network computes in; "auto" is bf16 where the hardware has it.
        format: of the files that are written; "auto" keeps TIFF, BMP and lossless WebP, and is PNG for
            all others.
        batch_size: patches at once; None for what fits into memory.
        weights_dir: folder of downloaded weights; None for the user's cache.
    """

    model: str = DEFAULT_MODEL
    preset: Preset = DEFAULT_PRESET
    method: Method | None = None
    steps: int | None = None
    num_latents: int | None = None
    denoise_level: float | None = None
    select: Select = DEFAULT_SELECT
    classifier: str | None = None
    normalisation: str | None = None
    vote: Vote = "soft"
    perceptual: Perceptual = "ssim"
    lpips_trunk: LpipsTrunk = "vgg"
    class_label: str | None = None
    fit: Fit = "auto"
    max_tiles: int = 64
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    format: ImageFormat = "auto"
    batch_size: int | None = None
    weights_dir: Path | None = None

    def problems(self) -> list[CmapError]:
        """The mistakes in the values that can be found without loading anything."""
        found = unusable_values(self)
        for name in ("steps", "num_latents", "max_tiles", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(UsageError(f"{name} is {value}", "give 1 or more"))
        if self.denoise_level is not None and not 0 <= self.denoise_level < math.inf:
            found.append(UsageError(f"denoise_level is {self.denoise_level}", "give a finite number of 0 or more"))
        if self.select == "vote" and self.classifier is None:
            found.append(UsageError("--select vote needs a classifier", f"--classifier {DEFAULT_CLASSIFIER}"))
        return found


def with_options(settings: PurifySettings | None, options: Mapping[str, Any]) -> PurifySettings:
    """The settings with some of them changed (TypeError for an unknown name)."""
    return dataclasses.replace(settings or PurifySettings(), **options)


def compared_purify_settings(
    settings: PurifySettings, models: Mapping[str, tuple[str, PurifyConfig]], precision: str
) -> dict[str, Any]:
    """The settings in run.json, which a resumed run must share: every field that is not listed in `NO_EFFECT`.

    Args:
        settings: as given.
        models: of each model that can be used, the SHA-256 of its weights, and what preset, method, steps, num_latents
            and denoise_level amount to for it.
        precision: what the network computes in.
    """
    as_given = {
        KEYS.get(field.name, field.name): getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in NO_EFFECT and field.name not in RESOLVED
    }
    trunk = "" if settings.perceptual == "ssim" else f"-{settings.lpips_trunk}"
    of_models = {
        name: {"model_sha256": sha256, **dataclasses.asdict(config)} for name, (sha256, config) in models.items()
    }
    return {
        **as_given,
        **({"models": of_models} if settings.model == AUTO_MODEL else of_models[settings.model]),
        "perceptual": f"{settings.perceptual}{trunk}",
        "precision": precision,
    }
