"""``cmap train``."""

from __future__ import annotations

import dataclasses
import json as json_module
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.choices import ModelKind, Preconditioning, TrainingPreset
from cmap_cli.cli import console, options
from cmap_cli.errors import UsageError

if TYPE_CHECKING:
    from cmap_cli.models.networks.state import Stored
    from cmap_cli.training.recipe import TrainingConfig

SCHEMA = "cmap.train/1"
FEWEST_IMAGES = 2
SAMPLES = 64
DIRECTIONS: dict[ModelKind, int] = {"gaussian": 600, "unet": 800}


def train(
    out: options.Out,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Training images: files, folders, patterns, arrays such as cifar10.npz:x_train. With --preset, by "
            "default the training split of CIFAR-10, after cmap download-weights cifar10.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        ModelKind | None,
        typer.Option(
            help="gaussian: closed form, a minute; unet: a network on top of it, about two hours on a CPU.",
            show_default="gaussian; unet with --preset",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    preset: Annotated[
        TrainingPreset | None,
        typer.Option(
            help="Recipe of a unet. bundled made the model in the package; accelerator is the same network with the "
            "budget of a GPU. The options below change it.",
            show_default="bundled",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    image_size: Annotated[
        int,
        typer.Option(
            min=4,
            help="Side of the model's images; for unet a multiple of 2 to the number of widths.",
            rich_help_panel=options.METHOD,
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
        int | None,
        typer.Option(
            min=1,
            help="unet: training images seen in all.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    train_batch: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="unet: images an iteration.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="unet: channels of its levels, multiples of 16, such as 64,96,128,128.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="unet: peak learning rate.", show_default="the recipe's", rich_help_panel=options.METHOD),
    ] = None,
    preconditioning: Annotated[
        Preconditioning | None,
        typer.Option(
            help="unet: what the network is added to: the closed form, or plainly c_skip·x.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="unet: fuse its kernels with torch.compile, which takes a minute and a C++ compiler or Triton.",
            show_default="on CUDA",
            rich_help_panel=options.RUNTIME,
        ),
    ] = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
) -> None:
    """Make a consistency model of your own image domain, for cmap purify --model DIR.

    Examples:

      cmap train ./photos --out ./my-model

      cmap train ./photos --kind unet --out ./my-model

      cmap train --preset bundled --out ./cifar10-unet

    An interrupted run goes on from its last checkpoint. DIR gets model.safetensors, samples.png and a model card.
    """
    began = time.monotonic()
    kind = kind or ("unet" if preset else "gaussian")
    if kind == "gaussian" and preset:
        raise UsageError(f"--preset {preset} is a recipe of a unet, not of a gaussian", "leave out --kind")
    recipe = adjust(
        preset,
        images=images_seen,
        batch_size=train_batch,
        widths=None if widths is None else parse_widths(widths),
        lr=lr,
        preconditioning=preconditioning,
        seed=seed,
    )
    check_shape(kind, image_size, channels, recipe.widths)
    from cmap_cli.data.inputs import discover
    from cmap_cli.data.outputs import check_output_folder

    named = images or training_split(preset, weights_dir)
    found = discover(named, sys.stdin if "-" in named else None)
    check_output_folder(found.folders, out)
    if (out / "model.safetensors").exists() and not overwrite:
        raise UsageError(f"{out} holds a model already", "--overwrite replaces it")
    if len(found.sources) < FEWEST_IMAGES:
        raise UsageError(f"{len(found.sources)} training image is not enough", "give a folder of images of your domain")

    import torch

    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.training.checkpoint import CHECKPOINT
    from cmap_cli.training.data import load_training_images
    from cmap_cli.training.gaussian import fit_gaussian
    from cmap_cli.training.loop import Progress, train_unet
    from cmap_cli.training.results import write_results

    chosen = choose_device(device)
    silent = quiet or json
    if not silent:
        work = f"{recipe.iterations} iterations of {recipe.batch_size} images" if kind == "unet" else "a covariance"
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
    model: Stored = base
    seconds = time.monotonic() - began
    if kind == "unet":
        if overwrite:
            (out / CHECKPOINT).unlink(missing_ok=True)
        with console.reporting(recipe.iterations, "iterations", quiet=silent) as training:

            def on_progress(progress: Progress) -> None:
                training.reach(progress.iteration)
                if training.shows_detail and progress.iteration % 10 == 0:
                    training.detail(f"loss {float(progress.loss):.2f}")

            trained, seconds = train_unet(
                data,
                base,
                recipe,
                out,
                on_progress,
                chosen.device,
                choose_dtype(precision, chosen.device),
                compiled=chosen.device.type == "cuda" if compiled is None else compiled,
            )
            model = trained.cpu()
    facts: dict[str, Any] = {
        "kind": kind,
        "images": len(data),
        "image shape": list(data.shape[1:]),
        "directions": kept,
        "command": shlex.join(["cmap", *sys.argv[1:]]),
        "device": f"{chosen.device} ({chosen.reason}), torch {torch.__version__}",
        "seconds of training": round(seconds),
    }
    if kind == "unet":
        facts["recipe"] = json_module.dumps(dataclasses.asdict(recipe))
    path = write_results(model, out, facts, SAMPLES)
    if json:
        console.result_json({"schema": SCHEMA, "model": str(path), **facts})
    else:
        console.result(str(path))


def adjust(preset: TrainingPreset | None, **changes: object) -> TrainingConfig:
    """The recipe of a preset with what the user changed; None is no change."""
    from cmap_cli.training.recipe import RECIPES

    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(RECIPES[preset or "bundled"], **given)


def training_split(preset: TrainingPreset | None, weights_dir: Path | None) -> list[str]:
    """The training images of the presets: CIFAR-10's, from the cache (WeightsError: not downloaded yet)."""
    if preset is None:
        raise UsageError("no training images are given", "cmap train ./photos --out ./my-model")
    from cmap_cli.models.weights.cache import local_file
    from cmap_cli.models.weights.manifest import find_artefact

    return [f"{local_file(find_artefact('cifar10', 'dataset'), weights_dir)}:x_train"]


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
