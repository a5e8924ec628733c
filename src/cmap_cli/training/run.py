"""The function behind ``cmap train``: trains a consistency model of the user's images."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from cmap_cli.device import choose_dtype
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.files import make_folder, sweep_temporaries
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.state import Stored
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.models.store import MODEL_FILE
from cmap_cli.models.stored_classifier import CLASSIFIER_FILE
from cmap_cli.models.zoo import load_model
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.adapt_run import run_adaptation
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.data import load_training_images
from cmap_cli.training.documents import SCHEMA, TrainDocument
from cmap_cli.training.gaussian import fit_gaussian
from cmap_cli.training.loop import TrainingStep, train_unet
from cmap_cli.training.photo_recipe import PhotoConfig
from cmap_cli.training.photo_run import run_photo_training
from cmap_cli.training.plan import FEWEST_IMAGES, TrainPlan, plan_training
from cmap_cli.training.recipe import TrainingConfig
from cmap_cli.training.results import OnTrainProgress, TrainProgress, TrainResult, write_results
from cmap_cli.training.settings import TrainSettings

SAMPLES = 64
PSNR_FACT = "PSNR in dB of held-out images denoised at t, of each average of the weights"
DIRECTIONS = {"gaussian": 600, "unet": 800}
Input = str | os.PathLike[str]


def train(
    images: Input | Sequence[Input],
    out: Input,
    settings: TrainSettings | None = None,
    *,
    command: str = "cmap_cli.train",
    on_plan: Callable[[TrainPlan], None] | None = None,
    on_progress: OnTrainProgress | None = None,
    on_failure: Callable[[ImageError], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a consistency model of your images, or continue from the checkpoint in the folder, and write it.

    Args:
        images: a file, folder, pattern, an array such as ``cifar10.npz:x_train``, or several of them. If empty, with a
            preset of a unet: the training split of CIFAR-10. For a classifier one data set with labels, a value of
            ``cmap certify --dataset``, by default the training split of CIFAR-10.
        out: folder for model.safetensors or classifier.safetensors, README.md, and depending on the kind samples.png
            and the checkpoint.
        settings: settings of the training; None for the defaults.
        command: command line, for the model card.
        on_plan: called with the plan before images are read.
        on_progress: called after each image and each iteration.
        on_failure: called for each image that cannot be read; the others are used.
        options: fields of :class:`~cmap_cli.training.settings.TrainSettings`, instead of those of ``settings``.

    Returns:
        The model, its path and the facts of its card.

    Raises:
        UsageError: the settings, the images or the folder cannot be used.
        SettingsMismatchError: the checkpoint in the folder is of other settings.
        WeightsError: the checkpoint is damaged, or a model or data set is missing.
        OutOfSpaceError: the disk is full; the last checkpoint is kept.
    """
    given = [images] if isinstance(images, (str, os.PathLike)) else images
    chosen = dataclasses.replace(settings or TrainSettings(), **options)
    plan = plan_training([os.fspath(each) for each in given], os.fspath(out), chosen)
    if on_plan is not None:
        on_plan(plan)
    return run_training(plan, command=command, on_progress=on_progress, on_failure=on_failure)


def run_training(
    plan: TrainPlan,
    *,
    command: str,
    on_progress: OnTrainProgress | None = None,
    on_failure: Callable[[ImageError], None] | None = None,
) -> TrainResult:
    """Run a plan; arguments and errors are those of :func:`train`."""
    began = time.monotonic()
    make_folder(plan.out)
    sweep_temporaries(plan.out)
    if plan.settings.overwrite:
        (plan.out / CHECKPOINT).unlink(missing_ok=True)
    failures: list[ImageError] = []
    report = on_progress or (lambda progress: None)

    def fail(error: ImageError) -> None:
        failures.append(error)
        if on_failure is not None:
            on_failure(error)

    for failure in plan.found.failures:
        fail(failure.error)
    if plan.parts is not None and isinstance(plan.recipe, AdaptationConfig):
        adapted = run_adaptation(plan, plan.parts, plan.recipe, command, report, fail)
        return TrainResult(plan.out / CLASSIFIER_FILE, *adapted, failures=tuple(failures))
    if isinstance(plan.recipe, PhotoConfig):
        made: tuple[Stored, TrainDocument] = run_photo_training(plan, plan.recipe, command, report, fail)
    else:
        assert not isinstance(plan.recipe, AdaptationConfig)
        made = fit_model(plan, plan.recipe, read_images(plan, report, fail), command, report, began)
    return TrainResult(plan.out / MODEL_FILE, *made, failures=tuple(failures))


def read_images(plan: TrainPlan, report: OnTrainProgress, on_failure: Callable[[ImageError], None]) -> Tensor:
    """The training images, uint8 (N, C, H, W), without those that cannot be read (UsageError for fewer than two)."""
    total, done = len(plan.found.sources), 0

    def on_image() -> None:
        nonlocal done
        done += 1
        report(TrainProgress("images read", done, total))

    settings = plan.settings
    data = load_training_images(plan.found.sources, settings.channels, settings.image_size, on_image, on_failure)
    if len(data) < FEWEST_IMAGES:
        raise UsageError("fewer than two training images could be read")
    return data


def fit_model(
    plan: TrainPlan, recipe: TrainingConfig | None, data: Tensor, command: str, report: OnTrainProgress, began: float
) -> tuple[Stored, TrainDocument]:
    """Fit and write a gaussian, or with a recipe a unet on top of it; ``began`` is the time of the start."""
    kept = min(plan.settings.directions or DIRECTIONS[plan.kind], data[0].numel(), len(data) - 1)
    initial = None if recipe is None else initial_unet(plan, recipe)
    base = initial.base if initial else fit_gaussian(data, kept, keep_residual=recipe is not None)
    model: Stored = base
    seconds, measured = time.monotonic() - began, {}
    if recipe is not None:
        model, psnr, seconds = fit_unet(plan, recipe, data, base, initial, report)
        measured[PSNR_FACT] = json.dumps(psnr)
    document = TrainDocument(
        schema=SCHEMA,
        model=str(plan.out / MODEL_FILE),
        kind=plan.kind,
        images=len(data),
        image_shape=tuple(data.shape[1:]),
        directions=len(base.directions),
        command=command,
        device=f"{plan.chosen.device} ({plan.chosen.reason}), torch {torch.__version__}",
        seconds=round(seconds),
        recipe="" if recipe is None else json.dumps(dataclasses.asdict(recipe)),
    )
    facts = msgspec.to_builtins(document)
    shown = {name: value for name, value in facts.items() if name not in ("schema", "model")} | measured
    write_results(model, plan.out, shown, SAMPLES)
    return model, document


def fit_unet(
    plan: TrainPlan,
    recipe: TrainingConfig,
    data: Tensor,
    base: GaussianConsistency,
    initial: UNetConsistency | None,
    report: OnTrainProgress,
) -> tuple[Stored, dict[str, dict[float, float]], float]:
    """The U-Net on the CPU, the PSNR of its averages by level, and the seconds of training of all runs."""

    def on_progress(progress: TrainingStep) -> None:
        report(TrainProgress("iterations", progress.iteration, progress.iterations, progress.loss))

    device = plan.chosen.device
    model, psnr, seconds = train_unet(
        data,
        base,
        recipe,
        plan.out,
        on_progress,
        device,
        choose_dtype(plan.settings.precision, device),
        compiled=plan.compiled,
        initial=initial,
    )
    return model.cpu(), psnr, seconds


def initial_unet(plan: TrainPlan, recipe: TrainingConfig) -> UNetConsistency | None:
    """The U-Net to begin with (UsageError: it is another kind of model, or has another size)."""
    name = plan.settings.init
    if name is None:
        return None
    model = load_model(name, weights_dir=plan.settings.weights_dir)
    side, size = plan.settings.image_size, (recipe.widths, recipe.blocks, recipe.preconditioning)
    wanted = (*size, (plan.settings.channels, side, side))
    if (
        not isinstance(model, UNetConsistency)
        or (model.widths, model.blocks, model.preconditioning, model.image_shape) != wanted
    ):
        raise UsageError(
            f"--init {name} is not a unet with widths {recipe.widths}, {recipe.blocks} block(s) per level, "
            f"{recipe.preconditioning} preconditioning and images of {side}×{side}"
        )
    return model
