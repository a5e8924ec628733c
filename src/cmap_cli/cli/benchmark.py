"""``cmap benchmark``."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cmap_cli.choices import (
    DEFAULT_CLASSIFIER,
    DEFAULT_MODEL,
    DEFAULT_PRESET,
    FailOn,
    Protocol,
    Split,
)
from cmap_cli.cli import console, options
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.shard import Shard

SCHEMA = "cmap.benchmark-result/1"
FAILED = 1
REPORT = "report.html"
Outputs = tuple[Path | None, Path | None, bool]
"""--junit, --baseline and --fail-on-regression."""
Conditions = tuple[float | None, float | None, FailOn, bool]
NO_CONDITIONS: Conditions = (None, None, "estimate", False)


def benchmark(
    dataset: Annotated[
        str,
        typer.Option(
            help="cifar10, imagenet100:FOLDER, a folder of class folders, a CSV of file,label, .npz, .safetensors.",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = "cifar10",
    split: Annotated[
        Split,
        typer.Option(
            help="Of cifar10: subset is the paper's 500 test images, and comes with cmap.",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = "subset",
    n: Annotated[
        int, typer.Option("--n", min=1, help="Images: the first n.", rich_help_panel=options.INPUT_OUTPUT)
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write to.",
            show_default="one of the user's cache",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    report_only: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Build the report of this folder again, from its records; attack nothing.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file and label, for images in folders.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    attack: options.Attacks = None,
    access: options.Accesses = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="end-to-end attacks the defence that is deployed; paper repeats the published protocol, which attacks "
            "a surrogate.",
            rich_help_panel=options.THREAT,
        ),
    ] = "end-to-end",
    norm: options.NormOption = "Linf",
    eps: Annotated[
        list[str] | None,
        typer.Option(
            help="Radius, 8/255 or 0.5; several times for a curve.",
            show_default="8/255, 0.5 for L2, 12 for L1",
            rich_help_panel=options.THREAT,
        ),
    ] = None,
    attack_steps: options.AttackSteps = 10,
    restarts: options.Restarts = 1,
    eot: options.EOT = 1,
    queries: options.Queries = 50,
    disruption_steps: options.DisruptionSteps = 100,
    unroll: options.Unroll = "all",
    smoothing: options.Smoothing = 0.0,
    reevaluations: Annotated[
        int,
        typer.Option(
            min=1,
            help="How often the defence is asked about each image, with fresh latents; the reference is 20.",
            rich_help_panel=options.THREAT,
        ),
    ] = 5,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="cmap, onestep (diffuse and denoise once), jpeg (quality 75), none; several times, side by side.",
            show_default="cmap",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    classifier: options.Classifier = DEFAULT_CLASSIFIER,
    normalisation: options.Normalisation = None,
    model: options.Model = DEFAULT_MODEL,
    preset: options.PresetOption = DEFAULT_PRESET,
    steps: options.Steps = None,
    num_latents: options.NumLatents = None,
    vote: options.VoteOption = "soft",
    seed: options.Seed = 0,
    fail_under: options.FailUnder = None,
    fail_under_clean: options.FailUnderClean = None,
    fail_on: options.FailOnOption = "estimate",
    fail_on_flags: options.FailOnFlags = False,
    junit: options.Junit = None,
    baseline: options.Baseline = None,
    fail_on_regression: options.FailOnRegression = False,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSize = None,
    chunk: options.Chunk = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure robust accuracy: attack the defended classifier, ask it again, report with intervals.

    Examples:

      cmap benchmark --dataset cifar10 --attack autoattack

      cmap benchmark --n 100 --attack pgd@white-box --attack-steps 100 --eot 20 --out report

      cmap benchmark --report-only report --fail-under 0.5 --fail-on interval

      torchrun --nproc-per-node 4 -m cmap_cli -- benchmark --n 500 --out report

      cmap benchmark --n 500 --out report --shard 2/8

    The same command resumes an interrupted run. OUT/report.html is the report, OUT/records.jsonl its data.
    """
    conditions = (fail_under, fail_under_clean, fail_on, fail_on_flags)
    if report_only is not None:
        outputs = (junit, baseline, fail_on_regression)
        if code := finish(report_only, json=json, quiet=quiet, conditions=conditions, outputs=outputs):
            raise typer.Exit(code)
        return
    if fail_on_regression and baseline is None:
        raise UsageError("--fail-on-regression needs a run to compare with", "--baseline DIR")
    own = check_share(shard, overwrite, out, judged=conditions != NO_CONDITIONS)
    silent = quiet or json or not console.leads()
    from cmap_cli.benchmarking import setup as campaign

    threat = campaign.ThreatOptions(
        attacks=tuple(attack or ()),
        accesses=tuple(access or ()),
        protocol=protocol,
        norm=norm,
        eps=tuple(eps or ()),
        attack_steps=attack_steps,
        restarts=restarts,
        eot=eot,
        queries=queries,
        disruption_steps=disruption_steps,
        unroll=unroll,
        smoothing=smoothing,
        reevaluations=reevaluations,
    )
    method = campaign.MethodOptions(
        defenses=campaign.parse_defenses(defense or ["cmap"]),
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
    prepared, share = campaign.prepare([dataset], split, n, labels, threat, method, own)
    if not prepared.campaign.dataset.labelled:
        raise UsageError(
            f"{dataset} has no labels, and accuracy needs them", "--labels FILE.csv, or a folder of class folders"
        )
    folder = out or prepared.default_folder()
    told = console.leads() and (dry_run or not silent)
    cost = campaign.announce(prepared, folder, own, verbose=verbose) if told else None
    if dry_run:
        if json and cost is not None:
            estimate = dataclasses.asdict(cost)
            console.result_json(
                {"schema": SCHEMA, "dry_run": True, "settings": prepared.settings, "estimate": estimate}
            )
        share.leave(0)
        return
    from cmap_cli.benchmarking.run import BenchmarkFolder, run_campaign
    from cmap_cli.runs.merge import merge_folder
    from cmap_cli.runs.progress import Part, write_part

    with share.leader_first():
        results = BenchmarkFolder(
            folder, prepared.settings, prepared.provenance, overwrite=share.forgets(overwrite), shard=own
        )
    work = prepared.campaign.share(own)
    part = Part(own, len(prepared.campaign.work()), len(work))
    with results, console.reporting(len(work), "chunks", quiet=silent) as progress:
        write_part(folder, part)
        run_campaign(prepared.campaign, results, progress.reach)
        write_part(folder, dataclasses.replace(part, finished=True))
        path = results.journal.path
    share.exchange(None)
    code = 0
    if share.partial:
        if json:
            document = {"schema": SCHEMA, "exit_code": 0, "out": str(folder), "shard": str(own), "records": str(path)}
            console.result_json(document)
        elif quiet:
            console.result(str(path))
        else:
            console.result(f"{len(work)} chunks of shard {own} are in {path}")
            console.say(f"when all shards are done: cmap merge {shlex.quote(str(folder))}")
    elif share.leads:
        merge_folder(folder, final=True)
        outputs = (junit, baseline, fail_on_regression)
        code = finish(folder, json=json, quiet=quiet, conditions=conditions, outputs=outputs)
    if code := share.leave(code):
        raise typer.Exit(code)


def check_share(shard: str | None, overwrite: bool, out: Path | None, *, judged: bool) -> Shard:
    """The shard of this process (UsageError where --shard does not go with the other options)."""
    from cmap_cli.runs.shard import resolve_shard

    own = resolve_shard(shard, overwrite)
    if shard is not None and judged:
        raise UsageError(
            "--fail-under and the other conditions are for the whole run, not for a shard",
            "cmap merge DIR --fail-under",
        )
    if shard is not None and out is None:
        raise UsageError("--shard needs --out, for cmap merge to find the records", "--out DIR")
    return own


def finish(
    folder: Path,
    *,
    json: bool,
    quiet: bool,
    conditions: Conditions,
    merged: dict[str, Any] | None = None,
    outputs: Outputs = (None, None, False),
) -> int:
    """Build the report from the records, show it, and see whether it meets the user's conditions.

    Args:
        folder: of the run.
        json: print a document; quiet: print the report's path.
        conditions: of the user.
        merged: what else the document says of a merge, with its exit code.
        outputs: files for CI, and the run to compare with.

    Returns:
        The exit code.
    """
    from cmap_cli.benchmarking import compare as comparing
    from cmap_cli.benchmarking.judge import unmet, write_judged_report
    from cmap_cli.benchmarking.report.machines import junit as junit_xml
    from cmap_cli.benchmarking.report.markdown import markdown_report, summary
    from cmap_cli.cli.compare import reasons_to_fail, show
    from cmap_cli.cli.github import write_step_summary
    from cmap_cli.files import write_text

    report = write_judged_report(folder)
    missed = unmet(report, *conditions)
    junit, baseline, fail_on_regression = outputs
    compared = None
    if baseline is not None:
        compared = comparing.compare(baseline, folder)
        missed += reasons_to_fail(compared) if fail_on_regression else []
    if junit is not None:
        write_text(junit, junit_xml(report, missed))
    write_step_summary(markdown_report(report))
    code = FAILED if missed else (merged or {}).get("exit_code", 0)
    if json:
        document = {"schema": SCHEMA, "exit_code": code, "out": str(folder), "missed": missed}
        if compared is not None:
            document["comparison"] = dataclasses.asdict(compared)
        console.result_json((merged or {}) | document | {"report": report.as_json()})
    elif quiet:
        console.result(str(folder / REPORT))
    else:
        if report.headline is not None:
            console.result(summary(report.headline).replace("**", ""))
        for flag in report.flags:
            if flag.fired:
                console.warn(flag.what)
        if compared is not None:
            show(compared)
        console.result(f"report: {folder / REPORT}")
    for text in missed:
        console.fail(CmapError(text))
    return int(code)
