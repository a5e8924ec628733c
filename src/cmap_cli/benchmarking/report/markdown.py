"""report.md: the report for a terminal and for GitHub."""

from __future__ import annotations

import re

from cmap_cli.benchmarking.report.budget import find_budget
from cmap_cli.benchmarking.report.settings import values_table
from cmap_cli.benchmarking.report.tables import (
    ReportTable,
    access_table,
    attack_table,
    control_table,
    cost_table,
    defense_table,
    detail_table,
    draws_table,
    failure_table,
    split_class_tables,
)
from cmap_cli.benchmarking.report.templates import render
from cmap_cli.benchmarking.report.values import Headline, Report


def markdown_report(report: Report) -> str:
    """The whole report as GitHub Markdown."""
    return squeezed(render("report.md.j2", report=report, tables=tables(report), budget=find_budget(report))) + "\n"


def summary(headline: Headline) -> str:
    """The headline, and the four numbers beside it."""
    return squeezed(render("summary.md.j2", headline=headline))


def tables(report: Report) -> list[ReportTable]:
    """All tables, in their order."""
    found = [access_table(report), defense_table(report), draws_table(report)]
    found += [attack_table(report, norm, eps) for norm, eps in reversed(report.balls())]
    for defense in report.defenses:
        for threat in defense.threats:
            found += [
                detail_table(defense, threat, threat.attacks, "In detail"),
                *split_class_tables(defense, threat),
                failure_table(report, defense, threat),
            ]
    controls = [
        detail_table(defense, threat, threat.controls, "Controls in detail")
        for defense in report.defenses
        for threat in defense.threats
    ]
    last = (values_table("Provenance", report.provenance), values_table("Settings", report.settings))
    return [*found, *map(control_table, report.defenses), *controls, cost_table(report), *last]


def squeezed(text: str) -> str:
    """The text without repeated empty lines."""
    return re.sub(r"\n{3,}", "\n\n", text).strip()
