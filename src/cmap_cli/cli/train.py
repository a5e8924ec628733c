"""``cmap train``."""

from __future__ import annotations

import dataclasses
import json as json_module
import shlex
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.choices import ModelKind
from cmap_cli.cli import console, options
from cmap_cli.errors import UsageError

if TYPE_CHECKING:
    from cmap_cli.models import Model

SCHEMA = "cmap.train/1"
FEWEST_IMAGES = 2
SAMPLES = 64
DIRECTIONS: dict[ModelKind, int] = {"gaussian": 600, "unet": 800}


def train(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="Training images: files, folders, patterns, arrays such as cifar10.npz:x_train.",
            show_default=False,
        ),
    ],
    out: options.Out,
    kind: Annotated[
        ModelKind,
        typer.Option(
            help="gaussian: closed form, a minute; unet: a network on top of it, hours on a CPU.",
            rich_help_panel=options.METHOD,
        ),
    ] = "gaussian",
    image_size: Annotated[
        int,
        typer.Option(
            min=4, help="Side of the model's images; a multiple of 8 for unet.", rich_help_panel=options.METHOD
        ),
    ] = 32,
    channels: Annotated[
        int, typer.Option(min=1, max=3, help="3 for RGB, 1 for grey.", rich_help_panel=options.METHOD)
    ] = 3,
    directions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Principal directions of the Gaussian that are kept; by default 600, for unet 800.",
            show_default=False,
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    images_seen: Annotated[
        int, typer.Option(min=1, help="unet: training images seen in all.", rich_help_panel=options.METHOD)
    ] = 240_000,
    train_batch: Annotated[
        int, typer.Option("--batch-size", min=1, help="unet: images an iteration.", rich_help_panel=options.METHOD)
    ] = 64,
    widths: Annotated[
        str, typer.Option(help="unet: channels of its levels, multiples of 16.", rich_help_panel=options.METHOD)
    ] = "64,128,128",
    lr: Annotated[float, typer.Option(help="unet: peak learning rate.", rich_help_panel=options.METHOD)] = 6e-4,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    dry_run: options.DryRun = False,
) -> None:
    """Make a consistency model of your own image domain, for cmap purify --model DIR.

    Examples:

      cmap train ./photos --out ./my-model

      cmap train cifar10.npz:x_train --kind unet --out ./cifar10-unet

    An interrupted run goes on from its last checkpoint. DIR gets model.safetensors, samples.png and a model card.
    """
    began = time.monotonic()
    level_widths = parse_widths(widths)
    check_shape(kind, image_size, channels, level_widths)
    from cmap_cli.inputs import discover
    from cmap_cli.outputs import check_output_folder

    found = discover(images, sys.stdin if "-" in images else None)
    check_output_folder(found.folders, out)
    if (out / "model.safetensors").exists() and not overwrite:
        raise UsageError(f"{out} holds a model already", "--overwrite replaces it")
    if len(found.sources) < FEWEST_IMAGES:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of images of your domain")

    import torch

    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.training.consistency import CHECKPOINT, Progress, TrainingConfig, train_unet
    from cmap_cli.training.data import load_training_images
    from cmap_cli.training.gaussian import fit_gaussian
    from cmap_cli.training.results import write_results

    chosen = choose_device(device)
    silent = quiet or json
    recipe = TrainingConfig(images=images_seen, batch_size=train_batch, widths=level_widths, lr=lr, seed=seed)
    if not silent:
        work = f"{recipe.iterations} iterations of {train_batch} images" if kind == "unet" else "a covariance"
        console.say(f"{kind} model of {len(found.sources)} images: {work} on {chosen.device} ({chosen.reason})")
    if dry_run:
        return
    out.mkdir(parents=True, exist_ok=True)
    for failure in found.failures:
        console.fail(failure.error)
    with console.reporting(len(found.sources), "images read", quiet=silent) as reading:
        data = load_training_images(found.sources, channels, image_size, reading.advance, console.fail)
    if len(data) < FEWEST_IMAGES:
        raise UsageError("fewer than two training images could be read")
    kept = min(directions or DIRECTIONS[kind], data[0].numel(), len(data) - 1)
    base = fit_gaussian(data, kept, keep_residual=kind == "unet")
    model: Model = base
    if kind == "unet":
        if overwrite:
            (out / CHECKPOINT).unlink(missing_ok=True)
        with console.reporting(recipe.iterations, "iterations", quiet=silent) as training:

            def on_progress(progress: Progress) -> None:
                training.advance(progress.iteration - training.done)
                if training.shows_detail and progress.iteration % 10 == 0:
                    training.detail(f"loss {float(progress.loss):.2f}")

            model = train_unet(
                data, base, recipe, out, on_progress, chosen.device, choose_dtype(precision, chosen.device)
            )
    facts = {
        "kind": kind,
        "images": len(data),
        "image shape": list(data.shape[1:]),
        "directions": kept,
        "command": shlex.join(["cmap", *sys.argv[1:]]),
        "device": f"{chosen.device} ({chosen.reason}), torch {torch.__version__}",
        "seconds of this run": round(time.monotonic() - began),
    }
    if kind == "unet":
        facts["recipe"] = json_module.dumps(dataclasses.asdict(recipe))
    path = write_results(model.cpu(), out, facts, SAMPLES)
    if json:
        console.result_json({"schema": SCHEMA, "model": str(path), **facts})
    else:
        console.result(str(path))


def parse_widths(text: str) -> tuple[int, ...]:
    """ "64,128,128" -> (64, 128, 128); UsageError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 and int(part) % 16 == 0 for part in parts):
        raise UsageError(f"--widths {text} is not a list of multiples of 16", "--widths 64,128,128")
    return tuple(int(part) for part in parts)


def check_shape(kind: ModelKind, image_size: int, channels: int, widths: tuple[int, ...]) -> None:
    """Refuse shapes that the model cannot have (UsageError)."""
    if channels == 2:
        raise UsageError("--channels 2 is neither grey nor RGB", "--channels 1 or --channels 3")
    multiple = 2 ** len(widths)
    if kind == "unet" and image_size % multiple:
        raise UsageError(
            f"--image-size {image_size} is no multiple of {multiple}, which a unet of {len(widths)} levels needs"
        )
