"""``cmap attack``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
) -> None:
    """Make adversarial images: floats without loss, PNG files, and what classifier and defence see in them.

    Examples:

      cmap attack cifar10 --n 50 --out adversarial

      cmap attack ./images --out adversarial --attack pgd@white-box --eps 4/255

      cmap attack cifar10 --n 20 --out adversarial --attack square --queries 500

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    from cmap_cli.cli import campaign

    silent = quiet or json
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
    prepared = campaign.prepare(names, split, n, labels, threat, method)
    if len(prepared.campaign.specs) > 1:
        raise UsageError("cmap attack makes one attack with one access", "cmap benchmark runs several")
    if not prepared.campaign.dataset.labelled:
        console.warn("images without labels are attacked away from what the classifier sees in them")
    if dry_run or not silent:
        campaign.announce(prepared, out, verbose=verbose)
    if dry_run:
        return
    from cmap_cli.benchmark import BenchmarkFolder, run_campaign
    from cmap_cli.export import export_images, sheet
    from cmap_cli.figures import write_comparison

    results = BenchmarkFolder(out, prepared.settings, prepared.provenance, overwrite=overwrite)
    total = len(prepared.campaign.work())
    with console.reporting(total, "chunks", quiet=silent) as progress:
        run_campaign(prepared.campaign, results, lambda done: progress.advance(done - progress.done))
    counts = {"images": 0, "success": 0, "success_defended": 0, "png_success": 0, "png_success_defended": 0}
    for line in export_images(prepared.campaign, results):
        counts["images"] += 1
        for key in list(counts)[1:]:
            counts[key] += line[key]
        if quiet and not json:
            console.result(str(out / line["png"]))
    write_comparison(out / SHEET, sheet(prepared.campaign, results, SHOWN), titles=("clean", "adversarial"))
    if json:
        console.result_json(
            {"schema": SCHEMA, "exit_code": 0, "settings": prepared.settings, "out": str(out), **counts}
        )
    elif not quiet:
        spec = prepared.campaign.specs[0]
        console.result(f"{counts['images']} images attacked by {spec} into {out}")
        console.result(
            f"{classifier}: {counts['success']} misclassified as floats, {counts['png_success']} as PNG; "
            f"behind {defense} {counts['success_defended']} and {counts['png_success_defended']}, one draw"
        )
