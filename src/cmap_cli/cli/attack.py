"""``cmap attack``."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL, DEFAULT_PRESET, Defense, Split
from cmap_cli.cli import console, options
from cmap_cli.errors import UsageError

SCHEMA = "cmap.attack/1"
SHEET = "sheet.png"
SHOWN = 24


def attack(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
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
            "--n", min=1, help="Images: the first n.", show_default="all", rich_help_panel=options.INPUT_OUTPUT
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file and label; images without labels are attacked away from what the "
            "classifier sees in them.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    name: Annotated[
        str,
        typer.Option(
            "--attack",
            help="autoattack, autoattack-plus, autoattack-rand, apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square, pgd, "
            "fgsm, disruption, noise, or NAME@ACCESS.",
            rich_help_panel=options.THREAT,
        ),
    ] = "autoattack",
    access: options.Accesses = None,
    norm: options.NormOption = "Linf",
    eps: Annotated[
        str | None,
        typer.Option(
            help="Radius, 8/255 or 0.5.",
            show_default="8/255, 0.5 for L2, 12 for L1",
            rich_help_panel=options.THREAT,
        ),
    ] = None,
    attack_steps: options.AttackSteps = 100,
    restarts: options.Restarts = 1,
    eot: options.EOT = 1,
    queries: options.Queries = 5000,
    disruption_steps: options.DisruptionSteps = 1000,
    unroll: options.Unroll = "all",
    smoothing: options.Smoothing = 0.0,
    defense: Annotated[
        Defense, typer.Option(help="What the attack goes through, if it does.", rich_help_panel=options.METHOD)
    ] = "cmap",
    classifier: options.Classifier = DEFAULT_CLASSIFIER,
    normalisation: options.Normalisation = None,
    model: options.Model = DEFAULT_MODEL,
    preset: options.PresetOption = DEFAULT_PRESET,
    steps: options.Steps = None,
    num_latents: options.NumLatents = None,
    vote: options.VoteOption = "soft",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSize = None,
    chunk: options.Chunk = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
) -> None:
    """Make adversarial images: floats without loss, PNG files, and what classifier and defence see in them.

    Examples:

      cmap attack cifar10 --n 50 --out adversarial

      cmap attack ./images --out adversarial --attack pgd@white-box --eps 4/255

      cmap attack cifar10 --n 20 --out adversarial --attack square --queries 500

      torchrun --nproc-per-node 4 -m cmap_cli -- attack cifar10 --out adversarial

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    from cmap_cli.benchmarking import setup as campaign
    from cmap_cli.runs.shard import resolve_shard

    own = resolve_shard(shard, overwrite)
    silent = quiet or json or not console.leads()
    threat = campaign.ThreatOptions(
        attacks=(name,),
        accesses=tuple(access or ()),
        protocol=None,
        norm=norm,
        eps=(eps,) if eps else (),
        attack_steps=attack_steps,
        restarts=restarts,
        eot=eot,
        queries=queries,
        disruption_steps=disruption_steps,
        unroll=unroll,
        smoothing=smoothing,
        reevaluations=1,
    )
    method = campaign.MethodOptions(
        defenses=(defense,),
        classifier=classifier or DEFAULT_CLASSIFIER,
        normalisation=normalisation,
        model=model,
        preset=preset,
        steps=steps,
        num_latents=num_latents,
        vote=vote,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
        chunk=chunk,
        weights_dir=weights_dir,
    )
    names = [name for given in images for name in (sys.stdin.read().split("\n") if given == "-" else [given]) if name]
    if not names:
        raise UsageError("there are no images to attack", "cmap attack cifar10 --out DIR")
    prepared, share = campaign.prepare(names, split, n, labels, threat, method, own)
    if len(prepared.campaign.specs) > 1:
        raise UsageError("cmap attack makes one attack with one access", "cmap benchmark runs several")
    if not prepared.campaign.dataset.labelled:
        console.warn("images without labels are attacked away from what the classifier sees in them")
    if console.leads() and (dry_run or not silent):
        campaign.announce(prepared, out, own, verbose=verbose)
    if dry_run:
        share.leave(0)
        return
    from cmap_cli.benchmarking.export import export_images
    from cmap_cli.benchmarking.run import BenchmarkFolder, run_campaign
    from cmap_cli.runs.progress import Part, write_part

    with share.leader_first():
        results = BenchmarkFolder(
            out, prepared.settings, prepared.provenance, overwrite=share.forgets(overwrite), shard=own
        )
    work = prepared.campaign.share(own)
    part = Part(own, len(prepared.campaign.work()), len(work))
    with results, console.reporting(len(work), "chunks", quiet=silent) as progress:
        write_part(out, part)
        run_campaign(prepared.campaign, results, progress.reach)
        lines = 0
        for line in export_images(prepared.campaign, results):
            lines += 1
            if quiet and not json:
                console.result(str(out / line.png))
        write_part(out, dataclasses.replace(part, finished=True))
    share.exchange(None)
    if share.partial:
        if json:
            document = {"schema": SCHEMA, "exit_code": 0, "settings": prepared.settings, "out": str(out)}
            console.result_json({**document, "shard": str(own), "images": lines})
        elif not quiet:
            console.result(f"{lines} images attacked into {out}, shard {own}")
            console.say(f"when all shards are done: cmap merge {shlex.quote(str(out))}")
    elif share.leads:
        finish(out, prepared.settings, prepared.provenance["classes"], json=json, quiet=quiet)
    share.leave(0)


def finish(folder: Path, settings: dict[str, Any], classes: Sequence[str], *, json: bool, quiet: bool) -> None:
    """Gather what the shards have written, draw the sheet, say what came out."""
    from cmap_cli.runs.merge import merge_folder

    merge_folder(folder, final=True)
    counts = show(folder, classes)
    if json:
        console.result_json({"schema": SCHEMA, "exit_code": 0, "settings": settings, "out": str(folder), **counts})
    elif not quiet:
        tell(folder, settings, counts)


def show(folder: Path, classes: Sequence[str]) -> dict[str, Any]:
    """Draw the sheet of a gathered folder; returns how many attacks succeeded."""
    from cmap_cli.benchmarking.export import count_successes, sheet
    from cmap_cli.data.sheets import write_comparison

    write_comparison(folder / SHEET, sheet(folder, classes, SHOWN), titles=("clean", "adversarial"))
    return msgspec.structs.asdict(count_successes(folder))


def tell(folder: Path, settings: dict[str, Any], counts: dict[str, int]) -> None:
    """What came out, for people."""
    console.result(f"{counts['images']} images attacked by {settings['attacks'][0]} into {folder}")
    console.result(
        f"{settings['classifier']}: {counts['success']} misclassified as floats, {counts['png_success']} as PNG; "
        f"behind {settings['defenses'][0]} {counts['success_defended']} and {counts['png_success_defended']}, one draw"
    )
