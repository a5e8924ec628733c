"""``cmap train --kind photo``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from cmap_cli.choices import Precision, TrainingPreset
from cmap_cli.cli import console
from cmap_cli.errors import UsageError

SCHEMA = "cmap.train/1"


def train_photo_command(
    images: list[str],
    out: Path,
    preset: TrainingPreset | None,
    changes: Mapping[str, object],
    init: str | None,
    *,
    overwrite: bool,
    json: bool,
    quiet: bool,
    device: str,
    precision: Precision,
    compiled: bool | None,
    dry_run: bool,
) -> None:
    """Check what the user asked for, train, and print the model's path.

    Args:
        images: the training photographs, as given.
        out: the model's folder.
        preset: recipe, bundled by default.
        changes: fields of the recipe that the user set; None is no change.
        init: model to begin with.
        overwrite: begin again.
        json: print the facts as JSON.
        quiet: print no progress.
        device: as given.
        precision: as given.
        compiled: as given.
        dry_run: stop before reading images.
    """
    from cmap_cli.data.inputs import discover
    from cmap_cli.data.outputs import check_output_folder
    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.models.store import MODEL_FILE
    from cmap_cli.training.checkpoint import CHECKPOINT
    from cmap_cli.training.loop import Progress
    from cmap_cli.training.photo_recipe import PHOTO_RECIPES
    from cmap_cli.training.photo_run import FEWEST_PHOTOS, PhotoTraining, run_photo_training

    if not images:
        raise UsageError("no training images are given", "cmap train ./photos --kind photo --out ./photo-model")
    given = {name: value for name, value in changes.items() if value is not None}
    config = dataclasses.replace(PHOTO_RECIPES[preset or "bundled"], **given)  # type: ignore[arg-type]  # typed options
    found = discover(images, sys.stdin if "-" in images else None)
    check_output_folder(found.folders, out)
    if (out / MODEL_FILE).exists() and not (out / CHECKPOINT).exists() and not overwrite:
        raise UsageError(f"{out} holds a model already", "--overwrite replaces it")
    if len(found.sources) < FEWEST_PHOTOS:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of photographs")
    chosen, silent = choose_device(device), quiet or json
    if not silent:
        work = f"{config.iterations} iterations on {chosen.device} ({chosen.reason})"
        console.say(f"photo model of {len(found.sources)} images: {work}")
    if dry_run:
        return
    for failure in found.failures:
        console.fail(failure.error)
    with (
        console.reporting(len(found.sources), "images read", quiet=silent) as reading,
        console.reporting(config.iterations, "iterations", quiet=silent) as training,
    ):

        def on_progress(progress: Progress) -> None:
            training.reach(progress.iteration)

        settings = PhotoTraining(
            sources=found.sources,
            out=out,
            config=config,
            device=chosen.device,
            dtype=choose_dtype(precision, chosen.device),
            compiled=chosen.device.type == "cuda" if compiled is None else compiled,
            init=init,
            overwrite=overwrite,
            command=shlex.join(["cmap", *sys.argv[1:]]),
        )
        facts = run_photo_training(settings, reading.advance, console.fail, on_progress)
    path = out / MODEL_FILE
    if json:
        console.result_json({"schema": SCHEMA, "model": str(path), **facts})
    else:
        console.result(str(path))
