"""``cmap attack``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.attacks.table import ADV_FACTOR, ATTACKS
from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL, DEFAULT_PRESET, Split
from cmap_cli.cli import completion, console, method_options, options, problems
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import raise_all

if TYPE_CHECKING:
    from cmap_cli.benchmarking.documents import Successes
    from cmap_cli.benchmarking.run import AttackRunResult


def attack(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            autocompletion=completion.datasets,
            help="cifar10, imagenet100:FOLDER, files, folders, patterns in quotes, a CSV of file,label, arrays, or - "
            "for paths on stdin.",
            show_default=False,
        ),
    ],
    out: options.Out,
    split: Annotated[
        Split,
        typer.Option(
            help="Of cifar10: subset is the paper's 500 test images, and comes with cmap.",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = "subset",
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=1,
            metavar="N",
            help="How many images: the first n, of a folder n at random (always the same).",
            show_default="all",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file and label; images without labels are attacked away from what the "
            "classifier sees in them.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    attack: Annotated[
        str,
        typer.Option(
            "--attack",
            help=f"{', '.join(ATTACKS)}, or NAME@ACCESS.",
            metavar="NAME",
            autocompletion=completion.attacks,
            rich_help_panel=options.THREAT,
        ),
    ] = "autoattack",
    access: options.Accesses = None,
    norm: options.NormOption = "Linf",
    eps: Annotated[
        str | None,
        typer.Option(
            help="Radius, 8/255 or 0.5.",
            metavar="EPS",
            show_default="8/255, 0.5 for L2, 12 for L1",
            rich_help_panel=options.THREAT,
        ),
    ] = None,
    attack_steps: options.AttackSteps = 100,
    restarts: options.Restarts = 1,
    eot: options.EOT = 1,
    queries: options.Queries = 5000,
    disruption_steps: options.DisruptionSteps = 1000,
    adv_factor: method_options.AdvFactor = ADV_FACTOR,
    unroll: options.Unroll = "all",
    smoothing: options.Smoothing = 0.0,
    defense: Annotated[
        str,
        typer.Option(
            help=f"What the attack goes through, if it does: {', '.join(DEFENSES)}.",
            metavar="NAME",
            autocompletion=completion.defenses,
            rich_help_panel=options.METHOD,
        ),
    ] = "cmap",
    classifier: options.Classifier = DEFAULT_CLASSIFIER,
    normalisation: options.Normalisation = None,
    model: options.Model = DEFAULT_MODEL,
    preset: options.PresetOption = DEFAULT_PRESET,
    method: options.MethodOption = None,
    steps: options.Steps = None,
    num_latents: options.NumLatents = None,
    denoise_level: options.DenoiseLevel = None,
    perceptual: method_options.PerceptualOption = "ssim",
    lpips_trunk: method_options.LpipsTrunkOption = "vgg",
    vote: options.VoteOption = "soft",
    sigma: options.Sigma = 0.25,
    samples: options.Samples = 100,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSize = None,
    chunk: options.Chunk = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    help_all: options.HelpAll = False,
) -> None:
    """Make adversarial images: floats without loss, PNG files, and what classifier and defence see in them.

    Examples:

      cmap attack cifar10 --n 50 --out adversarial

      cmap attack ./images --out adversarial --attack pgd@white-box --eps 4/255

      cmap attack cifar10 --n 20 --out adversarial --attack square --queries 500

      torchrun --nproc-per-node 4 -m cmap_cli -- attack cifar10 --out adversarial

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    values = dict(locals())
    from cmap_cli.cli.benchmark_messages import settings_of, show_benchmark_dry_run
    from cmap_cli.cli.benchmark_narrator import BenchmarkNarrator
    from cmap_cli.runs.shard import resolve_shard

    silent = quiet or json or not console.leads()
    names = [name for given in images for name in (sys.stdin.read().split("\n") if given == "-" else [given]) if name]
    with BenchmarkNarrator(silent=silent, plan=dry_run and not json, verbose=verbose) as narrator:
        raise_all(problems.attack_problems(values))
        from cmap_cli.benchmarking import run
        from cmap_cli.benchmarking.settings import AttackSettings

        result = run.attack(
            names,
            out,
            settings_of(AttackSettings, values),
            shard=resolve_shard(shard, overwrite),
            overwrite=overwrite,
            dry_run=dry_run,
            on_plan=narrator.plan if narrator.wants_plan else None,
            on_progress=None if silent else narrator.progress,
            on_message=console.warn,
            on_phase=narrator.phase,
            on_image=(lambda name: console.result(str(out / name))) if quiet and not json else None,
        )
    if dry_run:
        show_benchmark_dry_run(result, json=json)
    elif result.team.partial:
        show_attack_shard(result, json=json, quiet=quiet)
    elif result.successes is not None:
        show_attack(out, result.settings, result.successes, json=json, quiet=quiet)
    result.team.leave(0)


def show_attack_shard(result: AttackRunResult, *, json: bool, quiet: bool) -> None:
    """Print what a shard wrote."""
    from cmap_cli.benchmarking.documents import AttackShardOutput

    out, shard, count = str(result.folder), str(result.shard), len(result.images)
    if json:
        settings = result.settings
        console.result_json(AttackShardOutput(exit_code=0, settings=settings, out=out, shard=shard, images=count))
    elif not quiet:
        console.result(f"{count} images attacked into {out}, shard {shard}")
        console.say(f"when all shards are done: cmap merge {shlex.quote(out)}")


def show_attack(folder: Path, settings: dict[str, Any], counts: Successes, *, json: bool, quiet: bool) -> None:
    """Print the result of a whole run."""
    if json:
        from msgspec.structs import asdict

        from cmap_cli.benchmarking.documents import AttackOutput

        found = asdict(counts)
        console.result_json(AttackOutput(exit_code=0, settings=settings, out=str(folder), **found))
    elif not quiet:
        show_counts(folder, settings, counts)


def show_counts(folder: Path, settings: dict[str, Any], counts: Successes) -> None:
    """Print as text how many images deceive the classifier and the defence."""
    console.result(f"{counts.images} images attacked by {settings['attacks'][0]} into {folder}")
    console.result(
        f"{settings['classifier']}: {counts.success} misclassified as floats, {counts.png_success} as PNG; "
        f"behind {settings['defenses'][0]} {counts.success_defended} and {counts.png_success_defended}, one draw"
    )
