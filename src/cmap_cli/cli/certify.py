"""``cmap certify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL, Denoiser, FailOn, Procedure
from cmap_cli.cli import conditions, console, data_options, options, problems
from cmap_cli.errors import raise_all

if TYPE_CHECKING:
    from cmap_cli.benchmarking.certificates.thresholds import CertifyThreshold


def certify(
    dataset: data_options.DatasetName = "cifar10",
    split: data_options.SplitName = "subset",
    n: data_options.FirstImages = None,
    out: data_options.ReportFolder = None,
    report_only: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Build the report of this folder again, from its records; certify nothing.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Show the certificates of another program beside: a file with the columns of Cohen's certify.py; "
            "repeat it for several.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    labels: data_options.Labels = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SIGMA",
            help="Standard deviation of the noise, for images in [0, 1]; repeat it to compare several.",
            show_default="0.25",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    radius: Annotated[
        list[float] | None,
        typer.Option(
            metavar="RADIUS",
            help="ℓ2 radius to decide and report, for images in [0, 1]; repeat it for several.",
            show_default="0.1, 0.25, 0.5",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    procedure: Annotated[
        Procedure,
        typer.Option(
            help="sequential draws samples until every --radius is decided; cohen draws --samples and computes the "
            "largest radius.",
            rich_help_panel=options.METHOD,
        ),
    ] = "sequential",
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Noisy samples per image: the number (cohen), or the most (sequential).",
            show_default="10,000 for cohen, 1,000 for sequential",
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    selection: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Further samples before them, which choose the class.",
            show_default="100 for cohen, 32 for sequential",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Choose --n and --samples, where you do not give them, so that the run takes no longer than this on "
            "this device: 90s, 10m, 2h.",
            show_default=False,
            rich_help_panel=options.METHOD,
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            help="Probability that the certificate of one image is wrong.",
            metavar="SHARE",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = 0.001,
    denoiser: Annotated[
        Denoiser,
        typer.Option(
            help="What is put before the classifier: the model's posterior mean, its consistency function, or none; "
            "auto is the posterior mean if the model has one.",
            rich_help_panel=options.METHOD_DETAILS,
        ),
    ] = "auto",
    classifier: options.Classifier = DEFAULT_CLASSIFIER,
    normalisation: options.Normalisation = None,
    model: options.Model = DEFAULT_MODEL,
    seed: Annotated[
        int, typer.Option(help="Seed of the noise.", metavar="N", rich_help_panel=options.METHOD_DETAILS)
    ] = 0,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SIGMA@]RADIUS=SHARE",
            help="Exit with 1 if certified accuracy at this radius is lower: 0.25=0.3; repeat it for several.",
            show_default=False,
            rich_help_panel=conditions.CI,
        ),
    ] = None,
    fail_on: conditions.FailOnOption = "estimate",
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Noisy samples in work at once; changes no result.",
            show_default="64 for 32×32 images on a CPU, 1,024 on CUDA",
            rich_help_panel=options.RUNTIME_DETAILS,
        ),
    ] = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    help_all: options.HelpAll = False,
) -> None:
    """Certify accuracy: a share of images that no attack within an ℓ2 radius can change, by randomised smoothing.

    Examples:

      cmap certify --n 50 --sigma 0.25 --radius 0.25

      cmap certify --n 500 --sigma 0.12 --sigma 0.25 --sigma 0.5 --out certificates

      cmap certify --procedure cohen --samples 10000 --sigma 0.25 --out certificates

      cmap certify --budget 10m --radius 0.25 --fail-under 0.25=0.2

      cmap certify --n 500 --out certificates --shard 2/8

    The same command resumes an interrupted run. OUT/report.html is the report, OUT/records.jsonl its data, and
    OUT/sigma-0.25.tsv has the columns of Cohen's certify.py.
    """
    values = dict(locals())
    from cmap_cli.cli import certify_messages as messages
    from cmap_cli.cli.benchmark_messages import cut_short, settings_of
    from cmap_cli.cli.progress import reporting_units

    raise_all(problems.certify_problems(values))
    from cmap_cli.benchmarking.certificates.thresholds import parse_certify_thresholds

    thresholds = parse_certify_thresholds(fail_under or ())
    if report_only is not None:
        rebuild(report_only, reference or (), thresholds, fail_on, json=json, quiet=quiet)
        return
    own = data_options.check_shard(shard, overwrite, out, judged=bool(thresholds))
    silent = quiet or json or not console.leads()
    with reporting_units("certificates", quiet=silent) as on_progress:
        from cmap_cli.benchmarking.certificates import run
        from cmap_cli.benchmarking.certificates.settings import CertifySettings

        result = run.certify(
            dataset,
            settings_of(CertifySettings, values),
            out=out,
            budget=budget,
            shard=own,
            references=reference or (),
            overwrite=overwrite,
            dry_run=dry_run,
            on_plan=None
            if silent and not (dry_run and not json)
            else lambda plan: messages.show_certify_plan(plan, verbose=verbose),
            on_progress=on_progress,
            on_message=console.warn,
        )
    code = 0
    if dry_run:
        messages.show_certify_dry_run(result, json=json)
    elif result.team.partial:
        messages.show_certify_shard(result, json=json, quiet=quiet)
    elif result.report is not None:
        lacking = cut_short(result.unfinished, result.certificates, "certificates", budget)
        code = messages.finish_certify(
            result.folder, result.report, thresholds, fail_on, json=json, quiet=quiet, cut_short=lacking
        )
    if code := result.team.leave(code):
        raise typer.Exit(code)


def rebuild(
    folder: Path,
    references: Sequence[str],
    thresholds: tuple[CertifyThreshold, ...],
    fail_on: FailOn,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """The report of a folder, from its records."""
    from cmap_cli.benchmarking.certificates.report import write_certificate_report
    from cmap_cli.benchmarking.certificates.thresholds import refuse_certify_thresholds
    from cmap_cli.cli.certify_messages import finish_certify

    report = write_certificate_report(folder, references)
    refuse_certify_thresholds(thresholds, report.settings["sigma"], report.settings["radius"])
    if code := finish_certify(folder, report, thresholds, fail_on, json=json, quiet=quiet):
        raise typer.Exit(code)
