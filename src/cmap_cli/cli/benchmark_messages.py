"""What ``cmap benchmark`` and ``cmap attack`` print, and how their options become settings."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cmap_cli.cli import console
from cmap_cli.errors import CmapError

if TYPE_CHECKING:
    from cmap_cli.benchmarking.certificates.settings import CertifySettings
    from cmap_cli.benchmarking.compare import Comparison
    from cmap_cli.benchmarking.documents import Estimate
    from cmap_cli.benchmarking.events import BenchmarkPlan
    from cmap_cli.benchmarking.report.values import Report
    from cmap_cli.benchmarking.run import AttackRunResult, BenchmarkResult
    from cmap_cli.benchmarking.settings import AttackSettings, BenchmarkSettings
    from cmap_cli.benchmarking.thresholds import Gate
    from cmap_cli.runs.merge import Merged

S = TypeVar("S", "AttackSettings", "BenchmarkSettings", "CertifySettings")
FAILED, PARTIAL = 1, 3
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Outputs:
    """Further files of a report, and the run that it is compared with: the options of the same names."""

    junit: Path | None = None
    baseline: Path | None = None
    fail_on_regression: bool = False


NO_OUTPUTS = Outputs()


def settings_of(kind: type[S], values: Mapping[str, Any]) -> S:
    """The settings among the options of a command, which have the same names; options not given keep the default."""
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: values[name] for name in names if values.get(name) is not None})


def estimate_of(plan: BenchmarkPlan) -> Estimate:
    """The estimate of a plan, as JSON documents contain it."""
    from cmap_cli.benchmarking.documents import Estimate
    from cmap_cli.runs.documents import Seconds

    cost = plan.cost
    return Estimate(
        remaining=Seconds(low=round(cost.remaining.low, 1), high=round(cost.remaining.high, 1)),
        thorough=Seconds(low=round(cost.thorough.low, 1), high=round(cost.thorough.high, 1)),
        tasks=plan.tasks,
        done=plan.done,
        chosen=msgspec.UNSET if plan.time is None else dict(plan.time.chosen),
        least_images=msgspec.UNSET if plan.time is None else plan.time.least,
        weak=msgspec.UNSET if plan.time is None else plan.time.weak,
    )


def show_benchmark_dry_run(result: BenchmarkResult | AttackRunResult, *, json: bool) -> None:
    """Print the estimate of a dry run as JSON; as text the plan was printed before."""
    from cmap_cli.benchmarking.documents import AttackDryRunOutput, BenchmarkDryRunOutput
    from cmap_cli.benchmarking.run import BenchmarkResult

    if json and result.plan is not None:
        kind = BenchmarkDryRunOutput if isinstance(result, BenchmarkResult) else AttackDryRunOutput
        show_document(kind(settings=result.settings, estimate=estimate_of(result.plan)))


def show_benchmark_shard(result: BenchmarkResult, *, json: bool, quiet: bool) -> None:
    """Print what a shard wrote."""
    from cmap_cli.benchmarking.documents import BenchmarkShardOutput

    if json:
        out, records = str(result.folder), str(result.records)
        show_document(BenchmarkShardOutput(exit_code=0, out=out, shard=str(result.shard), records=records))
    elif quiet:
        console.result(str(result.records))
    else:
        console.result(f"{result.tasks} tasks of shard {result.shard} are in {result.records}")
        console.say(f"when all shards are done: cmap merge {shlex.quote(str(result.folder))}")


def show_document(document: msgspec.Struct) -> None:
    """Print a document on stdout."""
    console.result_json(msgspec.to_builtins(document))


def cut_short(unfinished: int, total: int, things: str, budget: str | None) -> tuple[str, ...]:
    """What is missing because the time of --budget was over, as a sentence; such a run meets no condition."""
    if not unfinished:
        return ()
    sentence = f"the time of --budget {budget} was over with {unfinished} of {total} {things} left"
    console.warn(f"{sentence}; the same command continues")
    return (sentence,)


def finish_benchmark(
    folder: Path,
    report: Report,
    gate: Gate,
    outputs: Outputs = NO_OUTPUTS,
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
        gate: the conditions.
        outputs: files for CI, and the run to compare with.
        json: whether to print a JSON document.
        quiet: whether to print only the report's path.
        merged: the parts that the report was made of, where it was made by a merge.
        cut_short: why the run is not complete, a sentence each.

    Returns:
        The exit code.
    """
    from cmap_cli.benchmarking.junit import junit
    from cmap_cli.benchmarking.report.markdown import markdown_report
    from cmap_cli.benchmarking.thresholds import failed_conditions
    from cmap_cli.cli.compare import reasons_to_fail
    from cmap_cli.cli.github import write_step_summary

    failed = failed_conditions(report, gate, merged.lacking if merged else cut_short)
    compared = None
    if outputs.baseline is not None:
        from cmap_cli.benchmarking.compare import compare

        compared = compare(outputs.baseline, folder)
        failed += reasons_to_fail(compared) if outputs.fail_on_regression else []
    if outputs.junit is not None:
        from cmap_cli.files import write_text

        write_text(outputs.junit, junit(report, failed, gate))
    write_step_summary(markdown_report(report))
    code = FAILED if failed else merged.exit_code if merged else PARTIAL if cut_short else 0
    if json:
        show_report_document(folder, report, compared, failed, code, merged)
    elif quiet:
        console.result(str(folder / REPORT))
    else:
        show_report(folder, report, compared)
    for text in failed:
        console.fail(CmapError(text))
    return code


def show_report_document(
    folder: Path,
    report: Report,
    compared: Comparison | None,
    failed: Sequence[str],
    code: int,
    merged: Merged | None,
) -> None:
    """Print the report as JSON, with the parts that were merged."""
    from cmap_cli.cli.documents import BenchmarkOutput, MergedBenchmarkOutput

    missed, content = tuple(failed), report.as_json()
    if merged is not None:
        facts = merged_facts(merged)
        console.result_json(MergedBenchmarkOutput(**facts, exit_code=code, missed=missed, report=content))
        return
    comparison = msgspec.UNSET if compared is None else compared
    console.result_json(
        BenchmarkOutput(exit_code=code, out=str(folder), missed=missed, comparison=comparison, report=content)
    )


def merged_facts(merged: Merged) -> dict[str, Any]:
    """The fields of :class:`~cmap_cli.cli.documents.MergedParts` except the exit code."""
    from cmap_cli.purify.documents import FailedImage

    return {
        "command": merged.kind,
        "out": str(merged.folder),
        "there": merged.count,
        "listed": merged.listed,
        "missing": merged.missing,
        "failed": merged.failed,
        "failures": msgspec.convert(merged.failures, tuple[FailedImage, ...]),
    }


def show_report(folder: Path, report: Report, compared: Comparison | None) -> None:
    """Print the report as text; the verdict comes last, where a terminal shows it."""
    from cmap_cli.benchmarking.report.tables import cell_text, summary_table
    from cmap_cli.benchmarking.report.words import headline_facts, headline_number, weakened
    from cmap_cli.cli.compare import show_comparison

    if report.headline is not None:
        console.result(f"{headline_number(report.headline)} ({headline_facts(report.headline)})")
        shown = summary_table(report.headline)
        console.table(shown.columns, [[cell_text(cell) for cell in row.cells] for row in shown.rows])
    for sentence in weakened(report.defenses):
        console.warn(sentence)
    for sentence in report.weak:
        console.result(f"weak budget: {sentence}")
    for flag in report.flags:
        if flag.fired:
            console.warn(flag.what)
    if compared is not None:
        show_comparison(compared)
    for sentence in report.verdict:
        console.result(sentence)
    console.result(f"report: {folder / REPORT}")
