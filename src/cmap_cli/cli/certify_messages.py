"""What ``cmap certify`` prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.choices import FailOn
from cmap_cli.cli import console
from cmap_cli.cli.benchmark_messages import FAILED, REPORT, merged_facts, show_document
from cmap_cli.cli.github import write_step_summary
from cmap_cli.errors import CmapError
from cmap_cli.runs.documents import encode

if TYPE_CHECKING:
    from cmap_cli.benchmarking.certificates.budget import CertifyTimePlan
    from cmap_cli.benchmarking.certificates.documents import CertificateReport
    from cmap_cli.benchmarking.certificates.run import CertifyPlan, CertifyResult
    from cmap_cli.benchmarking.certificates.thresholds import CertifyThreshold
    from cmap_cli.runs.merge import Merged


def show_certify_plan(plan: CertifyPlan, *, verbose: bool) -> None:
    """Print what will be done, and about how long this shard takes."""
    from cmap_cli.runs.shard import WHOLE

    run, chosen = plan.prepared.run, plan.prepared.chosen
    sigmas = ", ".join(f"{sigma:g}" for sigma in run.sigmas)
    radii = ", ".join(f"{radius:g}" for radius in run.plan.radii)
    denoiser = run.classifier.denoiser
    behind = "" if denoiser == "none" else f" behind the {denoiser} of {plan.prepared.settings['model']}"
    console.say(
        f"{console.count(len(run.dataset), 'image')} of {run.dataset.name}, {plan.prepared.classifier.name}{behind}; "
        f"noise {sigmas}; ℓ2 {radii}; {run.plan.procedure}, {run.plan.samples:,} samples"
    )
    of_shard = "" if plan.shard == WHOLE else f"; shard {plan.shard}: {plan.certificates} of {plan.all_certificates}"
    least, most = (console.duration(seconds) for seconds in plan.seconds)
    took = most if least == most else f"{least} to {most}"
    console.say(
        f"{chosen.device} ({chosen.reason}): {plan.samples_per_second:.0f} samples/s, about {took}, into "
        f"{plan.folder}{of_shard}"
    )
    if plan.time is not None:
        show_time(plan.time)
    if verbose:
        console.say(encode(plan.prepared.settings))


def show_time(plan: CertifyTimePlan) -> None:
    """Print the settings that were chosen for --budget, and how wide the intervals will be."""
    none, half = plan.widths
    chosen = " and ".join(f"{value:,} {'images' if name == 'n' else 'samples'}" for name, value in plan.chosen.items())
    console.say(
        f"for {console.duration(plan.seconds)}: {chosen or 'nothing to choose'}; all samples together take "
        f"{console.duration(plan.longest)} at most, as measured"
    )
    reach = ", ".join(f"{radius:.2f} with sigma {sigma:g}" for sigma, radius in plan.reach)
    console.say(
        f"the 95 % interval will be {none:.0f} points wide if no image is certified, {half:.0f} if half of them are; "
        f"ℓ2 radii of up to {reach} can be certified"
    )


def show_certify_dry_run(result: CertifyResult, *, json: bool) -> None:
    """Print the estimate of a dry run as JSON; as text the plan was printed before."""
    from cmap_cli.benchmarking.certificates.documents import CertifyDryRunOutput

    if json and result.plan is not None:
        chosen = dict(result.plan.time.chosen) if result.plan.time else {}
        show_document(CertifyDryRunOutput(settings=result.settings, seconds=result.plan.seconds, chosen=chosen))


def show_certify_shard(result: CertifyResult, *, json: bool, quiet: bool) -> None:
    """Print what a shard wrote."""
    from cmap_cli.benchmarking.certificates.documents import CertifyShardOutput

    if json:
        out, records = str(result.folder), str(result.records)
        show_document(CertifyShardOutput(exit_code=0, out=out, shard=str(result.shard), records=records))
    elif quiet:
        console.result(str(result.records))
    else:
        console.result(f"{result.certificates} certificates of shard {result.shard} are in {result.records}")
        console.say(f"when all shards are done: cmap merge {shlex.quote(str(result.folder))}")


def finish_certify(
    folder: Path,
    report: CertificateReport,
    thresholds: Sequence[CertifyThreshold],
    fail_on: FailOn,
    *,
    json: bool,
    quiet: bool,
    merged: Merged | None = None,
    cut_short: Sequence[str] = (),
) -> int:
    """Print a report, and check whether it meets the user's conditions.

    Args:
        folder: of the run.
        report: of the run.
        thresholds: the conditions.
        fail_on: what must not be lower.
        json: whether to print a JSON document.
        quiet: whether to print only the report's path.
        merged: the parts that the report was made of, where it was made by a merge.
        cut_short: what is missing because the time of --budget was over.

    Returns:
        The exit code.
    """
    from cmap_cli.benchmarking.certificates.documents import CertifyOutput
    from cmap_cli.benchmarking.certificates.page import markdown_page
    from cmap_cli.benchmarking.certificates.thresholds import failed_certify_conditions
    from cmap_cli.cli.documents import MergedCertifyOutput

    failed = failed_certify_conditions(report, thresholds, fail_on, (*cut_short, *(merged.lacking if merged else ())))
    write_step_summary(markdown_page(report))
    code = FAILED if failed else merged.exit_code if merged else 0
    if json:
        missed = tuple(failed)
        if merged is None:
            show_document(CertifyOutput(exit_code=code, out=str(folder), missed=missed, report=report))
        else:
            facts = merged_facts(merged)
            show_document(MergedCertifyOutput(**facts, exit_code=code, missed=missed, report=report))
    elif quiet:
        console.result(str(folder / REPORT))
    else:
        show_summary(report)
        console.result(f"report: {folder / REPORT}")
    for text in failed:
        console.fail(CmapError(text))
    return code


def show_summary(report: CertificateReport) -> None:
    """Print the certified accuracies as text, one row for each noise level and radius."""
    from cmap_cli.benchmarking.report.words import percent

    if not report.complete:
        console.result("the run is not complete")
    header = ("sigma", "ℓ2 radius", "certified", "95 % interval", "undecided", "of these images alone")
    rows = []
    for one in report.results:
        for each in one.radii:
            found = each.certified
            counted = f"{percent(found.value)} ({found.count}/{found.n})"
            interval = f"{percent(found.low)} to {percent(found.high)}"
            alone = f"at least {percent(each.set_low)}"
            rows.append((f"{one.sigma:g}", f"{each.radius:g}", counted, interval, str(each.undecided), alone))
    console.table(header, rows)
    for one in report.results:
        console.result(
            f"sigma {one.sigma:g}: {one.abstained} abstained, {one.wrong} wrong, {one.mean_samples:,.0f} samples and "
            f"{one.seconds:.1f} s per image"
        )
