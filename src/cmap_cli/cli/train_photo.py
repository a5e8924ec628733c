"""``cmap train --kind photo``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.choices import Precision, TrainingPreset
from cmap_cli.cli import console
from cmap_cli.errors import UsageError

if TYPE_CHECKING:
    from cmap_cli.data.inputs import Discovery
    from cmap_cli.training.loop import TrainingStep
    from cmap_cli.training.photo_recipe import PhotoConfig
    from cmap_cli.training.photo_run import PhotoTraining


@dataclass(frozen=True, slots=True)
class PhotoRuntime:
    """Options that do not change the recipe, as given; see :class:`~cmap_cli.training.plan.TrainSettings`."""

    device: str
    precision: Precision
    compiled: bool | None
    overwrite: bool


def refuse_unet_options(
    images_seen: object, batch_size: object, widths: object, directions: object, preconditioning: object
) -> None:
    """Options of a unet have no meaning for photographs (UsageError)."""
    given = {
        "--images-seen": images_seen,
        "--batch-size": batch_size,
        "--widths": widths,
        "--directions": directions,
        "--preconditioning": preconditioning,
    }
    if unsuitable := [option for option, value in given.items() if value is not None]:
        raise UsageError(f"{', '.join(unsuitable)} cannot be used with --kind photo", "leave it out")


def refuse_photo_options(iterations: object, init: object) -> None:
    """Options of a photograph model have no meaning for others (UsageError)."""
    given = {"--iterations": iterations, "--init": init}
    if unsuitable := [option for option, value in given.items() if value is not None]:
        raise UsageError(f"{', '.join(unsuitable)} can be used with --kind photo only", "leave it out")


def train_photo_command(
    images: list[str],
    out: Path,
    preset: TrainingPreset | None,
    changes: Mapping[str, object],
    init: str | None,
    runtime: PhotoRuntime,
    *,
    json: bool,
    quiet: bool,
    dry_run: bool,
) -> None:
    """Check what the user asked for, train, and print the model's path.

    Args:
        images: the training photographs, as given.
        out: the model's folder.
        preset: recipe, bundled by default.
        changes: fields of the recipe that the user set; None is no change.
        init: model to begin with.
        runtime: where and how to compute.
        json: print the facts as JSON.
        quiet: print no progress.
        dry_run: stop before reading images.
    """
    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.training.photo_recipe import PHOTO_RECIPES
    from cmap_cli.training.photo_run import PhotoTraining

    config = changed(PHOTO_RECIPES[preset or "bundled"], changes)
    found = find_photos(images, out, overwrite=runtime.overwrite)
    chosen = choose_device(runtime.device)
    if not (quiet or json):
        where = f"{chosen.device} ({chosen.reason})"
        console.say(f"photo model of {len(found.sources)} images: {config.iterations} iterations on {where}")
    settings = PhotoTraining(
        sources=found.sources,
        out=out,
        config=config,
        device=chosen.device,
        dtype=choose_dtype(runtime.precision, chosen.device),
        compiled=chosen.device.type == "cuda" if runtime.compiled is None else runtime.compiled,
        init=init,
        overwrite=runtime.overwrite,
        command=shlex.join(["cmap", *sys.argv[1:]]),
    )
    if dry_run:
        if json:
            console.result_json(settings.document())
        return
    for failure in found.failures:
        console.fail(failure.error)
    run_with_bars(settings, json=json, quiet=quiet)


def find_photos(images: list[str], out: Path, *, overwrite: bool) -> Discovery:
    """The training photographs (UsageError: there are too few, or the folder holds a finished model)."""
    from cmap_cli.data.inputs import discover
    from cmap_cli.data.outputs import check_output_folder
    from cmap_cli.models.store import MODEL_FILE
    from cmap_cli.training.checkpoint import CHECKPOINT
    from cmap_cli.training.photo_run import FEWEST_PHOTOS

    if not images:
        raise UsageError("no training images are given", "cmap train ./photos --kind photo --out ./photo-model")
    found = discover(images, sys.stdin if "-" in images else None)
    check_output_folder(found.folders, out)
    if (out / MODEL_FILE).exists() and not (out / CHECKPOINT).exists() and not overwrite:
        raise UsageError(f"{out} holds a model already", "--overwrite replaces it")
    if len(found.sources) < FEWEST_PHOTOS:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of photographs")
    return found


def changed(config: PhotoConfig, changes: Mapping[str, object]) -> PhotoConfig:
    """The recipe with the fields that the user set; None is no change."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(config, **given)  # type: ignore[arg-type]  # the options are typed


def run_with_bars(settings: PhotoTraining, *, json: bool, quiet: bool) -> None:
    """Train with progress, and print the result."""
    from cmap_cli.training.photo_run import run_photo_training

    silent = quiet or json
    with (
        console.reporting(len(settings.sources), "images read", quiet=silent) as reading,
        console.reporting(settings.config.iterations, "iterations", quiet=silent) as training,
    ):

        def on_progress(progress: TrainingStep) -> None:
            training.reach(progress.iteration)

        document = run_photo_training(settings, reading.advance, console.fail, on_progress)
    if json:
        console.result_json(document)
    else:
        console.result(document.model)
