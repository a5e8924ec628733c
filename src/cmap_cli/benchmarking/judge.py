"""From records to a report that knows where a defence hides: the masking checks applied to a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmap_cli.attacks.types import GradientDiagnostics
from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.masking import Flag, Measurement, Role, masking_flags
from cmap_cli.benchmarking.report.build import build_report, with_flags
from cmap_cli.benchmarking.report.records import RECORDS_FILE
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Report
from cmap_cli.benchmarking.report.write import save_report
from cmap_cli.benchmarking.specs import LARGE
from cmap_cli.choices import Access
from cmap_cli.runs.journal import read_lines

ROLES: dict[str, Role] = {"pgd": "iterative", "fgsm": "single-step", "noise": "noise"}
DEFAULT_CLASSES = 10


def write_judged_report(folder: Path) -> Report:
    """Compute the report of a run with all checks, and write report.json, report.md and report.html.

    Raises:
        CmapError: the folder holds no run, or a file cannot be read or written.
    """
    report = build_report(folder)
    flags = [*autoattack_flags(folder)]
    for defense in report.defenses:
        flags += defense_flags(report, defense)
    judged = with_flags(report, flags)
    save_report(folder, judged)
    return judged


def autoattack_flags(folder: Path) -> Iterator[Flag]:
    """What AutoAttack warned of, once for each attack."""
    seen: dict[str, None] = {}
    for record in read_lines(folder / RECORDS_FILE, BenchmarkRecord):
        for text in record.flags:
            seen[f"{record.attack}@{record.access} on {record.defense}: {text}"] = None
    return (Flag("autoattack", True, what) for what in seen)


def defense_flags(report: Report, defense: DefenseResult) -> Iterator[Flag]:
    """The masking checks on one defence, in each norm; those that had nothing to check are left out."""
    classes = len(report.provenance.get("classes") or ()) or DEFAULT_CLASSES
    for norm in dict.fromkeys(threat.norm for threat in defense.threats):
        measured = [
            measurement(result, threat.eps_value)
            for threat in defense.threats
            if threat.norm == norm
            for result in (*threat.attacks, *threat.controls)
        ]
        for flag in masking_flags(measured, classes, float(LARGE[norm])):  # type: ignore[index]  # a Norm, from JSON
            yield Flag(flag.name, flag.fired, f"{defense.defense}: {flag.what}", flag.checked)


def measurement(result: AttackRow, eps: float) -> Measurement:
    """An attack's outcome as the checks want it."""
    gradient = result.gradient
    found = None
    if gradient is not None and gradient.zero is not None and gradient.cosine is not None:
        found = GradientDiagnostics(gradient.zero, gradient.not_finite, gradient.cosine)
    access: Access = result.access  # type: ignore[assignment]  # from JSON, written by us
    role = ROLES.get(result.attack, "other")
    return Measurement(result.attack, role, access, eps, result.defended.vote.right, result.defended.vote.n, found)


def unmet(
    report: Report, fail_under: float | None, fail_under_clean: float | None, fail_on: str, fail_on_flags: bool
) -> list[str]:
    """The conditions of a CI job that a report does not meet, one sentence each.

    Args:
        report: of a run.
        fail_under: lowest robust accuracy: the vote over re-evaluations, in the worst case over the attacks.
        fail_under_clean: lowest accuracy of the defended classifier on clean images.
        fail_on: "estimate", or "interval" for the lower end of the Wilson interval.
        fail_on_flags: whether a masking check that fired is a failure.
    """
    missed = []
    headline = report.headline
    for limit, accuracy, what in (
        (fail_under, headline.accuracy if headline else None, "robust accuracy"),
        (fail_under_clean, headline.clean if headline else None, "defended clean accuracy"),
    ):
        if limit is None:
            continue
        if accuracy is None:
            missed.append(f"there is no {what} to compare with {limit:g}")
            continue
        value = accuracy.vote.low if fail_on == "interval" else accuracy.vote.value
        if value < limit:
            end = " (lower end of the 95 % interval)" if fail_on == "interval" else ""
            missed.append(f"{what} is {value:.3f}{end}, below {limit:g}")
    if fail_on_flags:
        missed += [f"check {flag.name}: {flag.what}" for flag in report.flags if flag.fired]
    return missed
