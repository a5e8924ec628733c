"""report.html: one file without scripts or requests, for light and dark screens of any width, and for printing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from cmap_cli.benchmarking.report.access import access_levels
from cmap_cli.benchmarking.report.budget import find_budget
from cmap_cli.benchmarking.report.charts import eps_charts, submission_chart
from cmap_cli.benchmarking.report.gallery import read_gallery
from cmap_cli.benchmarking.report.settings import values_table
from cmap_cli.benchmarking.report.tables import (
    ReportTable,
    attack_table,
    class_table,
    control_table,
    cost_table,
    defense_table,
    detail_table,
    draws_table,
    failure_table,
    split_class_tables,
)
from cmap_cli.benchmarking.report.templates import render
from cmap_cli.benchmarking.report.values import DefenseResult, Report, ReportFlag, ThreatResult
from cmap_cli.benchmarking.report.words import described_access


class AttackSection(NamedTuple):
    """The attacks within a ball: one table, and for each defence its attacks in detail."""

    table: ReportTable
    details: list[ReportTable]


class ThreatTables(NamedTuple):
    """A table per defence and ball: that of the headline is shown, the others can be opened."""

    shown: ReportTable | None
    folded: list[ReportTable]


def html_report(report: Report, folder: Path) -> str:
    """The whole page.

    Args:
        report: the numbers and words.
        folder: folder of the run; pictures are read from the files that the records name.
    """
    style = (files("cmap_cli") / "assets" / "report" / "page.css").read_text(encoding="utf-8")
    return render(
        "page.html.j2",
        report=report,
        style=Markup(style),
        meta=meta(report),
        attackers=attackers(report),
        checks=checks(report),
        defenses=defense_table(report),
        draws=draws_table(report),
        eps_charts=eps_charts(report),
        submissions=submission_chart(report),
        attacks=[attack_section(report, norm, eps) for norm, eps in reversed(report.balls())],
        levels=access_levels(report),
        budget=find_budget(report),
        controls=control_tables(report),
        control_details=control_details(report),
        classes=class_tables(report),
        gallery=read_gallery(report, folder),
        failures=by_threat(report, partial(failure_table, report)),
        cost=cost_table(report),
        provenance=values_table("Provenance", report.provenance),
        settings=values_table("Settings", report.settings),
    )


def meta(report: Report) -> list[tuple[str, object]]:
    """What was measured, with which software and device, and when."""
    settings, provenance = report.settings, report.provenance
    named = (
        ("classifier", settings.get("classifier")),
        ("model", settings.get("model")),
        ("protocol", settings.get("protocol")),
        ("draws per image", settings.get("reevaluations")),
        ("seed", settings.get("seed")),
        ("cmap", provenance.get("version")),
        ("started", provenance.get("started")),
    )
    return [(name, value) for name, value in named if value is not None]


def attackers(report: Report) -> list[tuple[str, str, list[str]]]:
    """Each access level of the headline, what it means, and its attacks."""
    if report.headline is None:
        return []
    named = report.headline.attacks
    return [
        (access, described_access(access, report.settings), [name for name in named if name.endswith("@" + access)])
        for access in report.headline.access
    ]


def checks(report: Report) -> dict[str, list[ReportFlag]]:
    """The checks by state."""
    states = ("fired", "not run", "nothing found")
    return {state: [one for one in report.flags if one.state == state] for state in states}


def attack_section(report: Report, norm: str, eps: str) -> AttackSection:
    """The attacks within a ball."""
    within = [(one, threat) for one in report.defenses for threat in one.threats]
    return AttackSection(
        attack_table(report, norm, eps),
        [
            detail_table(one, threat, threat.attacks, "In detail")
            for one, threat in within
            if (threat.norm, threat.eps) == (norm, eps) and threat.attacks
        ],
    )


def control_details(report: Report) -> list[ReportTable]:
    """All measurements of the controls, by defence and ball."""
    threats = [(one, threat) for one in report.defenses for threat in one.threats]
    return [detail_table(one, threat, threat.controls, "Controls in detail") for one, threat in threats]


def control_tables(report: Report) -> ThreatTables:
    """The controls: those of the headline's defence are shown, the others can be opened."""
    chosen = report.headline.defense if report.headline else None
    shown = next((control_table(one) for one in report.defenses if one.defense == chosen), None)
    return ThreatTables(shown, [control_table(one) for one in report.defenses if one.defense != chosen])


def class_tables(report: Report) -> ThreatTables:
    """Accuracy by class; for the headline's defence and ball, classes with few images are in a folded table."""
    every = by_threat(report, class_table)
    threat = report.headline_threat()
    defense = next((one for one in report.defenses if threat in one.threats), None)
    if threat is None or defense is None:
        return every
    large, small = split_class_tables(defense, threat)
    return ThreatTables(large, [small, *every.folded])


def by_threat(report: Report, make: Callable[[DefenseResult, ThreatResult], ReportTable]) -> ThreatTables:
    """The tables of all defences and balls."""
    shown, folded = None, []
    for one in report.defenses:
        for threat in one.threats:
            head, made = report.headline, make(one, threat)
            if head and (one.defense, threat.norm, threat.eps) == (head.defense, head.norm, head.eps):
                shown = made
            else:
                folded.append(made)
    return ThreatTables(shown, folded)
