"""``cmap benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cmap_cli.attacks.table import ADV_FACTOR
from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL, DEFAULT_PRESET, Protocol
from cmap_cli.cli import completion, conditions, console, data_options, method_options, options, problems
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import raise_all

DEFENSES_LISTED = ", ".join(f"{name} ({entry.about})" for name, entry in DEFENSES.items())


def benchmark(
    context: typer.Context,
    dataset: data_options.DatasetName = "cifar10",
    split: data_options.SplitName = "subset",
    n: data_options.FirstImages = None,
    out: data_options.ReportFolder = None,
    report_only: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Build the report of this folder again, from its records; attack nothing.",
            metavar="DIR",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    labels: data_options.Labels = None,
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
            rich_help_panel=options.THREAT_DETAILS,
        ),
    ] = "end-to-end",
    norm: options.NormOption = "Linf",
    eps: Annotated[
        list[str] | None,
        typer.Option(
            help="Radius, 8/255 or 0.5; several times for a curve.",
            metavar="EPS",
            show_default="8/255, 0.5 for L2, 12 for L1",
            rich_help_panel=options.THREAT,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Choose steps, draws and re-evaluations that you do not give for this time on this device, and take "
            "as many images as it suffices for: 90s, 10m, 2h.",
            show_default=False,
            rich_help_panel=options.THREAT,
        ),
    ] = None,
    attack_steps: options.AttackSteps = 10,
    restarts: options.Restarts = 1,
    eot: options.EOT = 1,
    queries: options.Queries = 50,
    disruption_steps: options.DisruptionSteps = 100,
    adv_factor: method_options.AdvFactor = ADV_FACTOR,
    unroll: options.Unroll = "all",
    smoothing: options.Smoothing = 0.0,
    reevaluations: Annotated[
        int,
        typer.Option(
            min=1,
            help="How often the defence is evaluated on each image, with fresh latents; use 20 to publish.",
            metavar="N",
            rich_help_panel=options.THREAT,
        ),
    ] = 5,
    control_images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images of each control, an attack that only serves a check for masked gradients.",
            metavar="N",
            rich_help_panel=options.THREAT_DETAILS,
        ),
    ] = 16,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade/--no-cascade",
            help="Of several attacks with the same access, run the later ones only on images that the earlier ones "
            "have not broken in every re-evaluation; worst cases stay the same.",
            rich_help_panel=options.THREAT_DETAILS,
        ),
    ] = True,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{DEFENSES_LISTED}; repeat it to compare several.",
            metavar="NAME",
            autocompletion=completion.defenses,
            show_default="cmap",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
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
    fail_under: conditions.FailUnder = None,
    fail_under_clean: conditions.FailUnderClean = None,
    fail_on: conditions.FailOnOption = "estimate",
    fail_on_flags: conditions.FailOnFlags = False,
    fail_on_weak: conditions.FailOnWeak = False,
    junit: conditions.Junit = None,
    baseline: conditions.Baseline = None,
    fail_on_regression: conditions.FailOnRegression = False,
    require_access: conditions.RequireAccess = None,
    accept_access: conditions.AcceptAccess = None,
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
    """Measure robust accuracy: attack the defended classifier, evaluate it again, report with intervals.

    Examples:

      cmap benchmark --dataset cifar10 --attack autoattack

      cmap benchmark --budget 10m --out report

      cmap benchmark --n 100 --attack pgd@white-box --attack-steps 100 --eot 20 --out report

      cmap benchmark --report-only report --fail-under 0.5 --fail-on interval

      torchrun --nproc-per-node 4 -m cmap_cli -- benchmark --n 500 --out report

      cmap benchmark --n 500 --out report --shard 2/8

    The same command resumes an interrupted run. OUT/report.html is the report, OUT/records.jsonl its data.
    """
    values = dict(locals())
    from cmap_cli.cli import benchmark_messages as messages
    from cmap_cli.cli.benchmark_narrator import BenchmarkNarrator

    outputs = messages.Outputs(junit, baseline, fail_on_regression)
    if report_only is not None:
        raise_all(problems.benchmark_problems(values))
        from cmap_cli.benchmarking.checks import write_checked_report

        report = write_checked_report(report_only)
        if code := messages.finish_benchmark(
            report_only, report, conditions.gate_of(values), outputs, json=json, quiet=quiet
        ):
            raise typer.Exit(code)
        return
    silent = quiet or json or not console.leads()
    with BenchmarkNarrator(silent=silent, plan=dry_run and not json, verbose=verbose) as narrator:
        raise_all(problems.benchmark_problems(values))
        from cmap_cli.benchmarking import run
        from cmap_cli.benchmarking.settings import BenchmarkSettings

        gate = conditions.gate_of(values)
        result = run.benchmark(
            dataset,
            messages.settings_of(BenchmarkSettings, values),
            out=out,
            budget=budget,
            shard=data_options.check_shard(shard, overwrite, out, judged=gate.judges or fail_on_regression),
            overwrite=overwrite,
            dry_run=dry_run,
            on_plan=narrator.plan if narrator.wants_plan else None,
            on_progress=None if silent else narrator.progress,
            on_message=console.warn,
            on_phase=narrator.phase,
            **given(context, values),
        )
    code = 0
    if dry_run:
        messages.show_benchmark_dry_run(result, json=json)
    elif result.team.partial:
        messages.show_benchmark_shard(result, json=json, quiet=quiet)
    elif result.report is not None:
        lacking = messages.cut_short(result.unfinished, result.tasks, "tasks", budget)
        code = messages.finish_benchmark(
            result.folder, result.report, gate, outputs, json=json, quiet=quiet, cut_short=lacking
        )
    if code := result.team.leave(code):
        raise typer.Exit(code)


def given(context: typer.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Of the options that --budget chooses, those that the user has given, also with their default values."""
    from cmap_cli.benchmarking.budget import SMALLEST

    sources = {name: context.get_parameter_source(name) for name in SMALLEST}
    return {name: values[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}
