"""``cmap train``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL, ModelKind, Preconditioning, TrainingPreset, Tuning
from cmap_cli.cli import console, options, problems
from cmap_cli.errors import UsageError, raise_all

if TYPE_CHECKING:
    from cmap_cli.training.results import TrainProgress
    from cmap_cli.training.settings import TrainSettings


def train(
    out: options.Out,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES",
            help="Training images: files, folders, patterns, arrays such as cifar10.npz:x_train. With --preset, by "
            "default the training split of CIFAR-10, after cmap download-weights cifar10. With --kind classifier one "
            "data set with labels, by default the same.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        ModelKind | None,
        typer.Option(
            help="gaussian: closed form, a minute; unet: a network on top of it, about two hours on a CPU; photo: a "
            "network for photographs of any size, two hours on a CPU; classifier: --classifier, trained further on "
            "denoised noisy images for cmap certify.",
            show_default="gaussian; unet with --preset",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    preset: Annotated[
        TrainingPreset | None,
        typer.Option(
            help="Recipe of a unet or photo. bundled has the network of the model in the package; accelerator is the "
            "same with the budget of a GPU. The options below change it.",
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
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    images_seen: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="unet, classifier: training images seen in all.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    train_batch: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="unet, classifier: images per iteration.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            help="unet: channels of its levels, multiples of 16, such as 64,96,128,128.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="unet, photo, classifier: peak learning rate.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    preconditioning: Annotated[
        Preconditioning | None,
        typer.Option(
            help="unet: what the network is added to: the closed form, or plainly c_skip·x.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="photo: optimiser steps in all; a finished run continues if there are more than before.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    tuning: Annotated[
        Tuning | None,
        typer.Option(
            help="unet: how f is trained: on pairs of noise levels, or on trajectories of the denoiser of --init.",
            show_default="the recipe's",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="unet, photo: begin with the weights of this model, a name or a folder of cmap train.",
            show_default=False,
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    classifier: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="classifier: begin with the weights of this one, a name of cmap list classifiers or a folder of cmap "
            "train.",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = DEFAULT_CLASSIFIER,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="classifier: the model whose denoiser makes the images; the one that cmap certify will use.",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = DEFAULT_MODEL,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SIGMA",
            help="classifier: standard deviation of the noise, for images in [0, 1]; repeat it for several.",
            show_default="0.12, 0.25, 0.5",
            rich_help_panel=options.METHOD_DETAILS,
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
            rich_help_panel=options.RUNTIME_DETAILS,
        ),
    ] = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    help_all: options.HelpAll = False,
) -> None:
    """Make a consistency model of your own image domain, for cmap purify --model DIR.

    Examples:

      cmap train ./photos --out ./my-model

      cmap train ./photos --kind unet --out ./my-model

      cmap train --preset bundled --out ./cifar10-unet

      cmap train ./photos --kind photo --preset bundled --out ./photo-unet

      cmap train --kind classifier --sigma 0.25 --out ./adapted

    The same command continues an interrupted run. DIR gets model.safetensors, samples.png and a model card; a
    classifier is in classifier.safetensors.
    """
    values = dict(locals())
    silent = quiet or json
    with console.working("looking for the images", quiet=silent):
        from cmap_cli.training.estimate import training_time
        from cmap_cli.training.plan import ENOUGH_IMAGES, plan_training
        from cmap_cli.training.run import run_training

        try:
            settings = train_settings(values)
        except UsageError:
            raise_all(problems.train_problems(values))
            raise
        plan = plan_training(images or [], out, settings, stdin=sys.stdin)
    time = None
    if not silent or dry_run:
        with console.working("measuring how long this takes", quiet=silent):
            time = training_time(plan)
    if time is not None and not silent:
        console.say(f"{plan.sentence()}: {console.time_range(time)} if it begins anew, besides reading the images")
    if plan.has_few_images:
        console.warn(
            f"{console.count(len(plan.found.sources), 'image')} are too few: the model will restore these and no "
            f"others; give {ENOUGH_IMAGES} at least, better thousands"
        )
    if dry_run:
        if json:
            console.result_json(plan.document(time))
        return
    with TrainingBars(quiet=silent) as bars:
        command = shlex.join(["cmap", *sys.argv[1:]])
        done = run_training(plan, command=command, on_progress=bars.show, on_failure=console.fail)
    if json:
        console.result_json(done.document)
    else:
        console.result(str(done.path))


class TrainingBars:
    """A progress bar for the images, then one for the iterations."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.unit = ""
        self.stack = ExitStack()

    def __enter__(self) -> TrainingBars:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stack.close()

    def show(self, progress: TrainProgress) -> None:
        """Move the bar; the loss is read from the device from time to time, and only if it is shown."""
        if progress.unit != self.unit:
            self.stack.close()
            self.unit = progress.unit
            from cmap_cli.cli.progress import reporting

            self.bar = self.stack.enter_context(reporting(progress.total, progress.unit, quiet=self.quiet))
        self.bar.reach(progress.done)
        if self.bar.shows_detail and progress.loss is not None and progress.done % 10 == 0:
            self.bar.detail(f"loss {float(progress.loss):.2f}")


def train_settings(values: Mapping[str, Any]) -> TrainSettings:
    """The settings among the options of the command (UsageError for --widths that are no numbers)."""
    from cmap_cli.training.settings import TrainSettings

    names = {field.name: field.name for field in dataclasses.fields(TrainSettings)} | {"batch_size": "train_batch"}
    given = {name: values[option] for name, option in names.items()}
    sigma = tuple(values["sigma"]) if values["sigma"] else None
    return TrainSettings(**given | {"widths": parse_widths(values["widths"]), "sigma": sigma})


def parse_widths(text: str | None) -> tuple[int, ...] | None:
    """ "64,128,128" -> (64, 128, 128); UsageError for anything else, None for nothing."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 9 for part in parts):
        raise UsageError(f"--widths {text} is not a list of multiples of 16", "--widths 64,128,128")
    return tuple(int(part) for part in parts)
