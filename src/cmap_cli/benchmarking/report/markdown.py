"""report.md: the report for a terminal and for GitHub."""

from __future__ import annotations

import re

from cmap_cli.benchmarking.report.tables import (
    ReportTable,
    attack_table,
    class_table,
    cost_table,
    defense_table,
    detail_table,
    draws_table,
    failure_table,
)
from cmap_cli.benchmarking.report.templates import render
from cmap_cli.benchmarking.report.values import Headline, Report


def markdown_report(report: Report) -> str:
    """The whole report as GitHub Markdown."""
    return squeezed(render("report.md.j2", report=report, tables=tables(report))) + "\n"


def summary(headline: Headline) -> str:
    """The number, and the four numbers around it."""
    return squeezed(render("summary.md.j2", headline=headline))


def tables(report: Report) -> list[ReportTable]:
    """All tables, in their order."""
    found = [defense_table(report), draws_table(report)]
    found += [attack_table(report, norm, eps) for norm, eps in report.balls()]
    for defense in report.defenses:
        for threat in defense.threats:
            found += [
                detail_table(defense, threat, threat.attacks, "In detail"),
                detail_table(defense, threat, threat.controls, "Controls, which count in nothing"),
                class_table(defense, threat),
                failure_table(report, defense, threat),
            ]
    return [*found, cost_table(report)]


def squeezed(text: str) -> str:
    """The text with at most one empty line between two others."""
    return re.sub(r"\n{3,}", "\n\n", text).strip()
