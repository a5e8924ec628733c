"""The plan of a training: checks everything that can be checked before images are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cmap_cli.choices import ModelKind
from cmap_cli.data.inputs import Discovery, discover
from cmap_cli.data.outputs import check_output_folder
from cmap_cli.device import DeviceChoice, choose_device
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all
from cmap_cli.models.store import MODEL_FILE
from cmap_cli.models.stored_classifier import CLASSIFIER_FILE
from cmap_cli.models.weights.cache import local_file
from cmap_cli.models.weights.manifest import find_artefact, unknown_names
from cmap_cli.runs.documents import Seconds
from cmap_cli.runs.forecast import Span
from cmap_cli.runs.settings import unusable_values
from cmap_cli.training.adapt_parts import AdaptationParts, load_adaptation_parts
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.documents import TrainPlanDocument
from cmap_cli.training.photo_recipe import PHOTO_RECIPES, PhotoConfig
from cmap_cli.training.recipe import RECIPES, TrainingConfig
from cmap_cli.training.settings import TrainSettings

FEWEST_IMAGES = 2
ENOUGH_IMAGES = 500
"""Fewer training images of a gaussian or unet cause a warning; measurements: docs/lab/training.md."""
Recipe = TrainingConfig | PhotoConfig | AdaptationConfig
R = TypeVar("R", TrainingConfig, PhotoConfig, AdaptationConfig)


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """The plan of a training: the checked settings, the images that were found, the device.

    Attributes:
        settings: settings of the caller.
        kind: kind of the model.
        recipe: the recipe, changed by the settings; None for a gaussian, which has a closed form.
        found: the images that were found, and problems with the others.
        chosen: the device.
        out: the model's folder.
        parts: the loaded parts of the adaptation of a classifier; None for other kinds.
    """

    settings: TrainSettings
    kind: ModelKind
    recipe: Recipe | None
    found: Discovery
    chosen: DeviceChoice
    out: Path
    parts: AdaptationParts | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the model's images; of the last crops of photographs."""
        if isinstance(self.recipe, PhotoConfig):
            return self.recipe.image_shape
        if self.parts is not None and self.parts.dataset.image_shape is not None:
            return self.parts.dataset.image_shape
        return (self.settings.channels, self.settings.image_size, self.settings.image_size)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile fuses the kernels."""
        return self.chosen.device.type == "cuda" if self.settings.compiled is None else self.settings.compiled

    @property
    def has_few_images(self) -> bool:
        """Whether there are too few images to restore other images; a photo model gets many crops per photograph."""
        return self.kind in ("gaussian", "unet") and len(self.found.sources) < ENOUGH_IMAGES

    def document(self, time: Span | None = None) -> TrainPlanDocument:
        """The plan as ``--dry-run --json`` prints it, with an estimate of the time."""
        return TrainPlanDocument(
            kind=self.kind,
            images=len(self.found.sources),
            image_shape=self.image_shape,
            iterations=self.recipe.iterations if self.recipe else 0,
            batch_size=self.recipe.batch_size if self.recipe else 0,
            device=str(self.chosen.device),
            out=str(self.out),
            seconds=None if time is None else Seconds(low=round(time.low, 1), high=round(time.high, 1)),
        )

    def sentence(self) -> str:
        """The plan in one sentence."""
        work = (
            f"{self.recipe.iterations} iterations of {self.recipe.batch_size} images" if self.recipe else "a covariance"
        )
        where = f"{self.chosen.device} ({self.chosen.reason})"
        model = "classifier adapted on" if self.kind == "classifier" else f"{self.kind} model of"
        return f"{model} {len(self.found.sources)} images: {work} on {where}"


def plan_training(
    images: Sequence[str | Path],
    out: str | Path,
    settings: TrainSettings,
    stdin: Iterable[str] | None = None,
) -> TrainPlan:
    """Check everything that can be checked before images are read.

    Arguments and errors are those of :func:`cmap_cli.training.run.train`; ``stdin`` has the paths of the input "-".
    """
    problems, folder = plan_problems(out, settings), Path(out)
    if settings.model_kind == "classifier":
        raise_all(problems)
        return plan_adaptation([str(each) for each in images], folder, settings, recipe_of(settings))
    found = Discovery()
    with collecting(problems):
        found = find_images(images, out, settings, stdin)
    raise_all(problems)
    return TrainPlan(settings, settings.model_kind, recipe_of(settings), found, choose_device(settings.device), folder)


def plan_problems(out: str | Path, settings: TrainSettings) -> list[CmapError]:
    """The errors in the settings and the output folder."""
    problems = settings.problems()
    if not unusable_values(settings):
        recipe = recipe_of(settings)
        if isinstance(recipe, TrainingConfig):
            with collecting(problems):
                check_image_size(settings.image_size, len(recipe.widths))
    if settings.model_kind == "classifier":
        problems += unknown_names(settings.model, settings.classifier)
    elif settings.init is not None:
        problems += unknown_names(settings.init, None)
    with collecting(problems):
        choose_device(settings.device)
    with collecting(problems):
        refuse_finished(settings.model_kind, Path(out), overwrite=settings.overwrite)
    return problems


def find_images(
    images: Sequence[str | Path], out: str | Path, settings: TrainSettings, stdin: Iterable[str] | None = None
) -> Discovery:
    """The training images (UsageError: there are fewer than two, or ``out`` is where they are)."""
    named = [str(each) for each in images] or training_split(settings)
    found = discover(named, stdin if "-" in named else None)
    check_output_folder(found.folders, Path(out))
    if len(found.sources) < FEWEST_IMAGES:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of images of your domain")
    return found


def plan_adaptation(images: Sequence[str], folder: Path, settings: TrainSettings, recipe: Recipe | None) -> TrainPlan:
    """The plan of the adaptation of a classifier; arguments and errors as of :func:`plan_training`."""
    check_output_folder([path for each in images if (path := Path(each)).is_dir()], folder)
    chosen = choose_device(settings.device)
    parts = load_adaptation_parts(images, settings, chosen.device)
    if len(parts.dataset) < FEWEST_IMAGES:
        raise UsageError(f"{len(parts.dataset)} training image is not enough", "give a folder of class folders")
    found = Discovery(sources=list(parts.dataset.sources))
    return TrainPlan(settings, "classifier", recipe, found, chosen, folder, parts)


def recipe_of(settings: TrainSettings) -> Recipe | None:
    """The recipe of the preset with the changes of the settings; None for a gaussian."""
    changes: dict[str, Any] = {"lr": settings.lr, "seed": settings.seed}
    preset = settings.preset or "bundled"
    match settings.model_kind:
        case "photo":
            return changed_recipe(PHOTO_RECIPES[preset], changes | {"iterations": settings.iterations})
        case "unet":
            changes |= {"images": settings.images_seen, "batch_size": settings.batch_size, "widths": settings.widths}
            changes |= {"preconditioning": settings.preconditioning, "tuning": settings.tuning}
            changes["denoising"] = 0.0 if settings.tuning == "trajectory" else None
            return changed_recipe(RECIPES[preset], changes)
        case "classifier":
            changes |= {"images": settings.images_seen, "batch_size": settings.batch_size, "sigmas": settings.sigma}
            return changed_recipe(AdaptationConfig(), changes)
    return None


def changed_recipe(recipe: R, changes: dict[str, Any]) -> R:
    """A recipe with some fields changed; None leaves a field unchanged."""
    return dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def training_split(settings: TrainSettings) -> list[str]:
    """The training images of a unet's presets: CIFAR-10's, from the cache (WeightsError: not downloaded yet)."""
    if settings.preset is None or settings.model_kind != "unet":
        raise UsageError("no training images are given", "cmap train ./photos --out ./my-model")
    return [f"{local_file(find_artefact('cifar10', 'dataset'), settings.weights_dir)}:x_train"]


def check_image_size(image_size: int, levels: int) -> None:
    """Refuse an image size that cannot be halved at each level of a unet (UsageError)."""
    multiple = 2**levels
    if image_size % multiple:
        raise UsageError(
            f"--image-size {image_size} is no multiple of {multiple}, which a unet of {levels} levels needs"
        )


def refuse_finished(kind: ModelKind, folder: Path, *, overwrite: bool) -> None:
    """Refuse to replace a model (UsageError), unless its checkpoint exists, so that it can be trained for longer."""
    longer = kind != "gaussian" and (folder / CHECKPOINT).exists()
    file, what = (CLASSIFIER_FILE, "classifier") if kind == "classifier" else (MODEL_FILE, "model")
    if (folder / file).exists() and not overwrite and not longer:
        raise UsageError(f"{folder} holds a {what} already", "--overwrite replaces it")
