"""``cmap merge``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.choices import FailOn
from cmap_cli.cli import conditions, console, options, problems
from cmap_cli.cli.command import output_folder
from cmap_cli.errors import CmapError, UsageError, raise_all

if TYPE_CHECKING:
    from cmap_cli.benchmarking.certificates.thresholds import CertifyThreshold
    from cmap_cli.benchmarking.thresholds import Gate
    from cmap_cli.runs.merge import Merged


def merge(
    parts: Annotated[
        list[Path],
        typer.Argument(
            metavar="PART...",
            help="The folder that all shards wrote to; or folders with a part of the run each.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the whole, when the parts are in several.",
            metavar="DIR",
            parser=output_folder,
            show_default="the one folder",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    fail_under: conditions.FailUnder = None,
    fail_under_clean: conditions.FailUnderClean = None,
    fail_on: conditions.FailOnOption = "estimate",
    fail_on_flags: conditions.FailOnFlags = False,
    fail_on_weak: conditions.FailOnWeak = False,
    require_access: conditions.RequireAccess = None,
    accept_access: conditions.AcceptAccess = None,
    help_all: options.HelpAll = False,
) -> None:
    """Combine the parts that --shard wrote into one manifest or one report, as a single process writes it.

    Examples:

      cmap merge ./clean

      cmap merge part-1 part-2 part-3 --out ./clean

      cmap merge part-* --out report --fail-under 0.5

    If shards or images are missing they are named, the exit code is 3, and a later merge includes them.
    """
    values = dict(locals())
    raise_all(problems.merge_problems(values))
    from cmap_cli.runs.merge import NOUNS, merge_folder, merge_folders

    gate, thresholds = conditions_of(values, parts)
    merged = merge_folder(parts[0]) if out is None else merge_folders(parts, out, overwrite=overwrite)
    code = merged.exit_code
    for sentence in merged.missing:
        console.fail(CmapError(sentence, "run what is missing, then merge again; what is there is kept"))
    for failure in merged.failures:
        console.fail(CmapError(failure["error"]))
    if not (json or quiet):
        of = "" if merged.listed is None else f" of {merged.listed}"
        failed = f", {merged.failed} failed" if merged.failed else ""
        console.result(f"{merged.count}{of} {NOUNS[merged.kind]} of cmap {merged.kind} in {merged.folder}{failed}")
    if merged.kind == "benchmark":
        from cmap_cli.benchmarking.checks import write_checked_report
        from cmap_cli.cli.benchmark_messages import finish_benchmark

        code = finish_benchmark(
            merged.folder, write_checked_report(merged.folder), gate, json=json, quiet=quiet, merged=merged
        )
    elif merged.kind == "certify":
        code = show_certificates(merged, thresholds, fail_on, json=json, quiet=quiet)
    else:
        show_merged(merged, json=json, quiet=quiet)
    if code:
        raise typer.Exit(code)


def conditions_of(values: Mapping[str, Any], parts: Sequence[Path]) -> tuple[Gate, tuple[CertifyThreshold, ...]]:
    """The conditions on benchmarks, and those on certificates (UsageError: they are wrong, or not for these parts)."""
    from cmap_cli.benchmarking.certificates.thresholds import parse_certify_thresholds
    from cmap_cli.runs.merge import kind_of

    kinds = {kind_of(part) for part in parts}
    thresholds = parse_certify_thresholds(values["fail_under"] or ()) if kinds == {"certify"} else ()
    gate = conditions.gate_of({**values, "fail_under": ()} if thresholds else values)
    refuse_conditions(gate, kinds)
    return gate, thresholds


def refuse_conditions(gate: Gate, kinds: Collection[str]) -> None:
    """Refuse conditions without a benchmark, and thresholds without benchmark or certificates (UsageError)."""
    if gate.judges and kinds != {"benchmark"}:
        raise UsageError(
            "--fail-under and the other conditions are for the parts of a benchmark; parts of cmap certify have "
            "--fail-under RADIUS=SHARE alone",
            "leave them out",
        )


def show_certificates(
    merged: Merged,
    thresholds: Sequence[CertifyThreshold],
    fail_on: FailOn,
    *,
    json: bool,
    quiet: bool,
) -> int:
    """Print the certificates of all parts; returns the exit code."""
    from cmap_cli.benchmarking.certificates.report import write_certificate_report
    from cmap_cli.benchmarking.certificates.thresholds import refuse_certify_thresholds
    from cmap_cli.cli.certify_messages import finish_certify

    report = write_certificate_report(merged.folder)
    refuse_certify_thresholds(thresholds, report.settings["sigma"], report.settings["radius"])
    return finish_certify(merged.folder, report, thresholds, fail_on, json=json, quiet=quiet, merged=merged)


def show_merged(merged: Merged, *, json: bool, quiet: bool) -> None:
    """Print the totals of the merged records of purify or attack."""
    from msgspec.structs import asdict, replace

    from cmap_cli.cli.benchmark_messages import merged_facts
    from cmap_cli.cli.documents import MergeDocument
    from cmap_cli.purify.documents import ImageRecord
    from cmap_cli.purify.summary import summarise
    from cmap_cli.runs.journal import read_lines
    from cmap_cli.runs.settings import MANIFEST_FILE

    manifest = merged.folder / MANIFEST_FILE
    document = MergeDocument(**merged_facts(merged), exit_code=merged.exit_code, manifest=str(manifest))
    if merged.kind == "purify":
        summary = summarise(read_lines(manifest, ImageRecord), {})
        document = replace(document, summary=summary)
        if summary.l1 is not None and not (json or quiet):
            console.result(f"distance to the input: mean |difference| {255 * summary.l1:.1f}/255")
    elif merged.count:
        from cmap_cli.benchmarking.documents import read_benchmark
        from cmap_cli.benchmarking.export import count_successes, write_sheet
        from cmap_cli.cli.attack import show_counts

        run, counts = read_benchmark(merged.folder), count_successes(merged.folder)
        write_sheet(merged.folder, run.provenance.get("classes", ()))
        document = replace(document, **asdict(counts))
        if not (json or quiet):
            show_counts(merged.folder, run.settings, counts)
    if json:
        console.result_json(document)
    elif quiet:
        console.result(str(manifest))
