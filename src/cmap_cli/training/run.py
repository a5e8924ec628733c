"""Train a consistency model of one's own images: what ``cmap train`` does, as a function."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from cmap_cli.device import choose_dtype
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.files import make_folder
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.state import Stored
from cmap_cli.models.store import MODEL_FILE
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.data import load_training_images
from cmap_cli.training.documents import SCHEMA, TrainDocument
from cmap_cli.training.gaussian import fit_gaussian
from cmap_cli.training.loop import TrainingStep, train_unet
from cmap_cli.training.plan import FEWEST_IMAGES, TrainPlan, TrainSettings, plan_training
from cmap_cli.training.results import write_results

SAMPLES = 64
DIRECTIONS = {"gaussian": 600, "unet": 800}


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """How far training is.

    Attributes:
        unit: "images read", then "iterations".
        done: how many.
        total: of how many.
        loss: of the iteration, on the device; None while images are read.
    """

    unit: str
    done: int
    total: int
    loss: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run made.

    Attributes:
        path: of the model's file.
        model: on the CPU.
        document: the facts that the model card lists.
        failures: the images that could not be read.
    """

    path: Path
    model: Stored
    document: TrainDocument
    failures: tuple[ImageError, ...]


def train(
    settings: TrainSettings,
    images: Sequence[str | Path],
    out: str | Path,
    *,
    weights_dir: Path | None = None,
    command: str = "cmap_cli.training.run.train",
    on_progress: Callable[[TrainProgress], None] | None = None,
    on_failure: Callable[[ImageError], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> TrainResult:
    """Train a consistency model, or continue from the checkpoint in the folder, and write it.

    Args:
        settings: what to train.
        images: files, folders, patterns, arrays such as ``cifar10.npz:x_train``; with a preset, if there are none,
            the training split of CIFAR-10.
        out: folder for model.safetensors, samples.png, README.md and the checkpoint.
        weights_dir: where CIFAR-10 is, the user's cache by default.
        command: for the model card.
        on_progress: called after each image and each iteration.
        on_failure: called for each image that cannot be read; the others are used.
        on_message: called with one sentence about what will be done.

    Returns:
        The model and where it is.

    Raises:
        UsageError: the settings, the images or the folder cannot be used.
        SettingsMismatchError: the checkpoint in the folder is of other settings.
        OutOfSpaceError: the disk is full; the last checkpoint is kept.
    """
    plan = plan_training(settings, images, out, weights_dir=weights_dir)
    if on_message:
        on_message(plan.sentence())
    return run_training(plan, command=command, on_progress=on_progress, on_failure=on_failure)


def run_training(
    plan: TrainPlan,
    *,
    command: str,
    on_progress: Callable[[TrainProgress], None] | None = None,
    on_failure: Callable[[ImageError], None] | None = None,
) -> TrainResult:
    """Do what was planned; arguments and errors as of :func:`train`."""
    began = time.monotonic()
    make_folder(plan.out)
    report = on_progress or (lambda progress: None)
    data, failures = read_images(plan, report, on_failure or (lambda error: None))
    kept = min(plan.settings.directions or DIRECTIONS[plan.kind], data[0].numel(), len(data) - 1)
    base = fit_gaussian(data, kept, keep_residual=plan.kind == "unet")
    model: Stored = base
    seconds = time.monotonic() - began
    if plan.kind == "unet":
        model, seconds = fit_unet(plan, data, base, report)
    path = plan.out / MODEL_FILE
    document = TrainDocument(
        schema=SCHEMA,
        model=str(path),
        kind=plan.kind,
        images=len(data),
        image_shape=tuple(data.shape[1:]),
        directions=kept,
        command=command,
        device=f"{plan.chosen.device} ({plan.chosen.reason}), torch {torch.__version__}",
        seconds=round(seconds),
        recipe=json.dumps(dataclasses.asdict(plan.recipe)) if plan.kind == "unet" else "",
    )
    facts = msgspec.to_builtins(document)
    write_results(model, plan.out, {k: v for k, v in facts.items() if k not in ("schema", "model")}, SAMPLES)
    return TrainResult(path, model, document, failures)


def read_images(
    plan: TrainPlan, report: Callable[[TrainProgress], None], on_failure: Callable[[ImageError], None]
) -> tuple[Tensor, tuple[ImageError, ...]]:
    """The training images, uint8 (N, C, H, W), and those that could not be read (UsageError for fewer than two)."""
    failures: list[ImageError] = []
    total, done = len(plan.found.sources), 0

    def fail(error: ImageError) -> None:
        failures.append(error)
        on_failure(error)

    def on_image() -> None:
        nonlocal done
        done += 1
        report(TrainProgress("images read", done, total))

    for failure in plan.found.failures:
        fail(failure.error)
    settings = plan.settings
    data = load_training_images(plan.found.sources, settings.channels, settings.image_size, on_image, fail)
    if len(data) < FEWEST_IMAGES:
        raise UsageError("fewer than two training images could be read")
    return data, tuple(failures)


def fit_unet(
    plan: TrainPlan, data: Tensor, base: GaussianConsistency, report: Callable[[TrainProgress], None]
) -> tuple[Stored, float]:
    """The U-Net on the CPU, and the seconds of all runs that made it."""
    if plan.settings.overwrite:
        (plan.out / CHECKPOINT).unlink(missing_ok=True)

    def on_progress(progress: TrainingStep) -> None:
        report(TrainProgress("iterations", progress.iteration, progress.iterations, progress.loss))

    device, compiled = plan.chosen.device, plan.settings.compiled
    model, _, seconds = train_unet(
        data,
        base,
        plan.recipe,
        plan.out,
        on_progress,
        device,
        choose_dtype(plan.settings.precision, device),
        compiled=device.type == "cuda" if compiled is None else compiled,
    )
    return model.cpu(), seconds
