"""What will be trained: settings, and everything that can be checked before images are read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.choices import ModelKind, Precision, Preconditioning, TrainingPreset
from cmap_cli.data.inputs import Discovery, discover
from cmap_cli.data.outputs import check_output_folder
from cmap_cli.device import DeviceChoice, choose_device
from cmap_cli.errors import UsageError
from cmap_cli.models.store import MODEL_FILE
from cmap_cli.models.weights.cache import local_file
from cmap_cli.models.weights.manifest import find_artefact
from cmap_cli.training.documents import TrainPlanDocument
from cmap_cli.training.recipe import RECIPES, TrainingConfig

FEWEST_IMAGES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """What to train; the fields are the options of ``cmap train`` and have their defaults.

    Attributes:
        kind: gaussian or unet; by default unet if there is a preset, else gaussian.
        preset: recipe of a unet, "bundled" by default.
        image_size: side of the model's images, pixels; for a unet a multiple of 2 to the number of widths.
        channels: 3 for RGB, 1 for grey.
        directions: principal directions of the Gaussian that are kept; 600, for a unet 800.
        images_seen: training images seen in all, instead of the recipe's.
        batch_size: images per iteration, instead of the recipe's.
        widths: channels of a unet's levels, multiples of 16, instead of the recipe's.
        lr: peak learning rate, instead of the recipe's.
        preconditioning: what a unet is added to, instead of the recipe's.
        seed: of weights, order, levels, noise and flips.
        device: auto, cpu, cuda, cuda:1 or mps.
        precision: of the network.
        compiled: whether torch.compile fuses the kernels; by default on CUDA.
        overwrite: replace the model in the folder, and start again.
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
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compiled: bool | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What will be trained: the checked settings, the images that were found, the device.

    Attributes:
        settings: as given.
        kind: of the model.
        recipe: of a unet, with the changes of the settings.
        found: the images, and what could not be found of them.
        chosen: the device.
        out: the model's folder.
    """

    settings: TrainSettings
    kind: ModelKind
    recipe: TrainingConfig
    found: Discovery
    chosen: DeviceChoice
    out: Path

    def document(self) -> TrainPlanDocument:
        """The plan as ``--dry-run --json`` prints it."""
        learned, side = self.kind != "gaussian", self.settings.image_size
        return TrainPlanDocument(
            kind=self.kind,
            images=len(self.found.sources),
            image_shape=(self.settings.channels, side, side),
            iterations=self.recipe.iterations if learned else 0,
            batch_size=self.recipe.batch_size if learned else 0,
            device=str(self.chosen.device),
            out=str(self.out),
        )

    def sentence(self) -> str:
        """The plan in one sentence."""
        work = "a covariance"
        if self.kind != "gaussian":
            work = f"{self.recipe.iterations} iterations of {self.recipe.batch_size} images"
        where = f"{self.chosen.device} ({self.chosen.reason})"
        return f"{self.kind} model of {len(self.found.sources)} images: {work} on {where}"


def plan_training(
    settings: TrainSettings,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    weights_dir: Path | None = None,
    stdin: Iterable[str] | None = None,
) -> TrainPlan:
    """Check everything that can be checked before images are read.

    Arguments and errors are those of :func:`cmap_cli.training.run.train`; ``stdin`` has the paths of the argument "-".
    """
    kind: ModelKind = settings.kind or ("unet" if settings.preset else "gaussian")
    if kind == "gaussian" and settings.preset:
        raise UsageError(f"--preset {settings.preset} is a recipe of a unet, not of a gaussian", "leave out --kind")
    recipe = recipe_of(settings)
    check_shape(kind, settings, recipe.widths)
    named = [str(each) for each in images] or training_split(settings.preset, weights_dir)
    found, folder = discover(named, stdin if "-" in named else None), Path(out)
    check_output_folder(found.folders, folder)
    if (folder / MODEL_FILE).exists() and not settings.overwrite:
        raise UsageError(f"{folder} holds a model already", "--overwrite replaces it")
    if len(found.sources) < FEWEST_IMAGES:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of images of your domain")
    return TrainPlan(settings, kind, recipe, found, choose_device(settings.device), folder)


def recipe_of(settings: TrainSettings) -> TrainingConfig:
    """The recipe of the preset with what the settings change (UsageError for a value that is none)."""
    if settings.lr is not None and not (math.isfinite(settings.lr) and settings.lr > 0):
        raise UsageError(f"--lr {settings.lr} is not a positive number", "--lr 8e-4")
    if settings.widths is not None and not all(width > 0 and width % 16 == 0 for width in settings.widths or (0,)):
        listed = ",".join(map(str, settings.widths))
        raise UsageError(f"--widths {listed} is not a list of multiples of 16", "--widths 64,128,128")
    changes: dict[str, Any] = {
        "images": settings.images_seen,
        "batch_size": settings.batch_size,
        "widths": settings.widths,
        "lr": settings.lr,
        "preconditioning": settings.preconditioning,
        "seed": settings.seed,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(RECIPES[settings.preset or "bundled"], **given)


def training_split(preset: TrainingPreset | None, weights_dir: Path | None) -> list[str]:
    """The training images of the presets: CIFAR-10's, from the cache (WeightsError: not downloaded yet)."""
    if preset is None:
        raise UsageError("no training images are given", "cmap train ./photos --out ./my-model")
    return [f"{local_file(find_artefact('cifar10', 'dataset'), weights_dir)}:x_train"]


def check_shape(kind: ModelKind, settings: TrainSettings, widths: tuple[int, ...]) -> None:
    """Refuse shapes that the model cannot have (UsageError)."""
    if settings.channels not in (1, 3):
        raise UsageError(f"--channels {settings.channels} is neither grey nor RGB", "--channels 1 or --channels 3")
    multiple = 2 ** len(widths)
    if kind == "unet" and settings.image_size % multiple:
        raise UsageError(
            f"--image-size {settings.image_size} is no multiple of {multiple}, which a unet of {len(widths)} levels "
            "needs"
        )
