"""The settings of ``cmap train`` and :func:`cmap_cli.train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.choices import (
    AUTO_MODEL,
    DEFAULT_CLASSIFIER,
    ModelKind,
    Precision,
    Preconditioning,
    TrainingPreset,
    Tuning,
)
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.settings import unusable_values

KINDS_OF: Mapping[str, tuple[ModelKind, ...]] = {
    "preset": ("unet", "photo"),
    "image_size": ("gaussian", "unet"),
    "channels": ("gaussian", "unet"),
    "directions": ("gaussian", "unet"),
    "images_seen": ("unet", "classifier"),
    "batch_size": ("unet", "classifier"),
    "widths": ("unet",),
    "preconditioning": ("unet",),
    "lr": ("unet", "photo", "classifier"),
    "iterations": ("photo",),
    "tuning": ("unet",),
    "init": ("unet", "photo"),
    "compiled": ("unet", "photo"),
    "classifier": ("classifier",),
    "model": ("classifier",),
    "sigma": ("classifier",),
}
"""The kinds of model for which a field has a meaning; fields that are not listed have one for all kinds."""
OPTIONS = {"compiled": "--compile"}
"""Options of the command line whose name differs from the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The settings of a training; names and defaults are those of the command line.

    Attributes:
        kind: gaussian, unet, photo or classifier; by default unet if there is a preset, else gaussian.
        preset: recipe of a unet or photo, "bundled" by default.
        image_size: side of the model's images, pixels; for a unet a multiple of 2 to the number of widths.
        channels: 3 for RGB, 1 for grey.
        directions: principal directions of the Gaussian that are kept; 600, for a unet 800.
        images_seen: unet, classifier: total number of training images that are used, instead of the recipe's.
        batch_size: unet, classifier: images per iteration, instead of the recipe's.
        widths: channels of a unet's levels, multiples of 16, instead of the recipe's.
        lr: peak learning rate, instead of the recipe's.
        preconditioning: what a unet is added to, instead of the recipe's.
        iterations: photo: total number of optimiser steps, instead of the recipe's.
        tuning: unet: how f is trained after the denoiser, instead of the recipe's; "trajectory" uses the denoiser of
            ``init``, which it needs, and begins with the tuning.
        init: name, file or folder of the model of the same kind whose weights training begins with.
        classifier: classifier: name or folder of the classifier whose weights training begins with.
        model: classifier: name of the model whose denoiser is used.
        sigma: classifier: standard deviations of the noise, for images in [0, 1], instead of the recipe's.
        seed: seed of weights, order, levels, noise and flips.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        precision: data type of the network; "auto" is bf16 if the hardware has it.
        compiled: whether torch.compile fuses the kernels; by default on CUDA.
        overwrite: whether to discard the model in the folder and start again.
        weights_dir: folder of downloaded weights and data; None for the user's cache.
    """

    kind: ModelKind | None = None
    preset: TrainingPreset | None = None
    image_size: int = 32
    channels: int = 3
    directions: int | None = None
    images_seen: int | None = None
    batch_size: int | None = None
    widths: tuple[int, ...] | None = None
    lr: float | None = None
    preconditioning: Preconditioning | None = None
    iterations: int | None = None
    tuning: Tuning | None = None
    init: str | None = None
    classifier: str = DEFAULT_CLASSIFIER
    model: str = AUTO_MODEL
    sigma: tuple[float, ...] | None = None
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compiled: bool | None = None
    overwrite: bool = False
    weights_dir: Path | None = None

    @property
    def model_kind(self) -> ModelKind:
        """The kind of model, with its default."""
        return self.kind or ("unet" if self.preset else "gaussian")

    def problems(self) -> list[CmapError]:
        """The errors in the values, as far as they can be found without reading files."""
        if found := unusable_values(self):
            return found
        least = {"image_size": 4, "directions": 1, "images_seen": 1, "batch_size": 1, "iterations": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                found.append(UsageError(f"{option_of(name)} {value} is below {minimum}"))
        if self.channels not in (1, 3):
            message = f"--channels {self.channels} is neither grey nor RGB"
            found.append(UsageError(message, "--channels 1 or --channels 3"))
        if self.lr is not None and not (math.isfinite(self.lr) and self.lr > 0):
            found.append(UsageError(f"--lr {self.lr} is not a positive number", "--lr 8e-4"))
        if self.widths is not None and not all(width > 0 and width % 16 == 0 for width in self.widths or (0,)):
            listed = ",".join(map(str, self.widths))
            found.append(UsageError(f"--widths {listed} is not a list of multiples of 16", "--widths 64,128,128"))
        found += [
            UsageError(f"--sigma {each:g} is not above 0 and below 10", "noise for images in [0, 1]: 0.12, 0.25, 0.5")
            for each in self.sigma or ()
            if not 0 < each < 10
        ]
        if self.kind == "classifier" and (self.batch_size or 2) % 2:
            found.append(UsageError(f"--batch-size {self.batch_size} is odd", "each image gets two samples of noise"))
        if self.tuning == "trajectory" and self.init is None:
            found.append(UsageError("--tuning trajectory needs a denoiser to begin with", "--init MODEL"))
        return found or self.misplaced()

    def misplaced(self) -> list[CmapError]:
        """The fields that were changed although they have no meaning for this kind of model."""
        kind, defaults = self.model_kind, {field.name: field.default for field in dataclasses.fields(self)}
        return [
            UsageError(
                f"{option_of(name)} has no meaning for --kind {kind}", f"leave it out, or --kind {' or '.join(kinds)}"
            )
            for name, kinds in KINDS_OF.items()
            if kind not in kinds and getattr(self, name) != defaults[name]
        ]


def option_of(field: str) -> str:
    """The option of the command line for a field."""
    return OPTIONS.get(field, f"--{field.replace('_', '-')}")
