"""``cmap purify``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.choices import (
    DEFAULT_MODEL,
    DEFAULT_PRESET,
    DEFAULT_SELECT,
    Fit,
    ImageFormat,
    Select,
)
from cmap_cli.cli import console, method_options, options

if TYPE_CHECKING:
    from cmap_cli.purify.settings import PurifySettings


def purify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Files, folders, patterns in quotes, arrays (.npy, .npz, .safetensors), or - for paths on stdin.",
            show_default=False,
        ),
    ],
    out: options.Out,
    image_format: Annotated[
        ImageFormat,
        typer.Option(
            "--format",
            help="auto, png, webp, tiff, bmp, jpeg, npy, npz or safetensors; auto keeps TIFF, BMP and lossless WebP, "
            "and writes PNG for all others.",
            metavar="NAME",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = "auto",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Write OUT/comparison.png: input, purified, difference ×10 of up to 24 images.",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file and label, for a summary of correct predictions.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    model: options.Model = DEFAULT_MODEL,
    preset: options.PresetOption = DEFAULT_PRESET,
    method: options.MethodOption = None,
    steps: options.Steps = None,
    num_latents: options.NumLatents = None,
    denoise_level: options.DenoiseLevel = None,
    select: Annotated[
        Select,
        typer.Option(
            help="Which of the K candidates is written; vote needs --classifier.",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = DEFAULT_SELECT,
    classifier: options.Classifier = None,
    normalisation: options.Normalisation = None,
    vote: options.VoteOption = "soft",
    perceptual: method_options.PerceptualOption = "ssim",
    lpips_trunk: method_options.LpipsTrunkOption = "vgg",
    class_label: options.ClassLabel = None,
    fit: Annotated[
        Fit,
        typer.Option(
            help="For a model of one size, images of other sizes: tile keeps their size; resize and crop write the "
            "model's; auto tiles, and refuses what needs more than --max-tiles.",
            rich_help_panel=options.METHOD,
        ),
    ] = "auto",
    max_tiles: Annotated[
        int, typer.Option(min=1, help="For --fit auto.", metavar="N", rich_help_panel=options.METHOD_DETAILS)
    ] = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSize = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    help_all: options.HelpAll = False,
) -> None:
    """Purify images: remove adversarial perturbations, without touching any classifier.

    Examples:

      cmap purify ./images --out ./clean

      cmap purify photo.png --out clean --preset fast --compare

      find . -name '*.png' | cmap purify - --out clean --quiet

      torchrun --nproc-per-node 4 -m cmap_cli -- purify ./images --out ./clean

      cmap purify ./images --out ./clean --shard 2/8

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    values = dict(locals())
    from cmap_cli.cli.purify_messages import Narrator, document, print_summary, warn_of_results
    from cmap_cli.purify.run import purify_folder

    settings = purify_settings(values)
    silent = quiet or json
    with Narrator(out, settings, silent=silent, paths=quiet and not json, verbose=verbose) as narrator:
        result = purify_folder(
            inputs,
            out,
            settings,
            labels=labels,
            overwrite=overwrite,
            shard=shard,
            compare=compare,
            dry_run=dry_run,
            stdin=sys.stdin if "-" in inputs else None,
            on_message=None if silent or not console.leads() else narrator.message,
            on_progress=narrator.progress,
        )
    warn_of_results(result)
    if json and console.leads():
        console.result_json(document(result))
    elif result.summary is not None and not silent:
        print_summary(result, result.summary, settings)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def purify_settings(values: Mapping[str, Any]) -> PurifySettings:
    """The settings among the options of the command."""
    from cmap_cli.purify.settings import PurifySettings

    names = {field.name: field.name for field in dataclasses.fields(PurifySettings)} | {"format": "image_format"}
    return PurifySettings(**{name: values[option] for name, option in names.items()})
