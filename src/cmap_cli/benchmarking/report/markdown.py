"""report.md: the report for a terminal and for GitHub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.tables import (
    Cell,
    ReportTable,
    attack_table,
    class_table,
    cost_table,
    defense_table,
    detail_table,
    draws_table,
    failure_table,
)
from cmap_cli.benchmarking.report.values import Headline, Report
from cmap_cli.benchmarking.report.words import interval, percent, title

SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


def markdown_report(report: Report) -> str:
    """The whole report as GitHub Markdown."""
    parts = [f"# {escaped(title(report))}"]
    parts += [f"> **Warning.** {escaped(warning)}" for warning in report.warnings]
    if report.headline:
        parts += [summary(report.headline), escaped(report.headline.sentence)]
    parts += flags(report)
    parts += [table(defense_table(report)), table(draws_table(report))]
    for norm, eps in report.balls():
        parts.append(table(attack_table(report, norm, eps)))
    for defense in report.defenses:
        for threat in defense.threats:
            parts.append(table(detail_table(defense, threat, threat.attacks, "In detail")))
            if threat.controls:
                parts.append(table(detail_table(defense, threat, threat.controls, "Controls, which count in nothing")))
            parts.append(table(class_table(defense, threat)))
            parts.append(table(failure_table(report, defense, threat)))
    parts.append(table(cost_table(report)))
    parts.append("## What these numbers do not say\n\n" + "\n".join(f"- {escaped(limit)}" for limit in report.limits))
    parts.append("## Provenance\n\n" + values(report.provenance))
    parts.append("## Settings\n\n" + values(report.settings))
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(headline: Headline) -> str:
    """The number, and the four numbers around it."""
    vote = headline.accuracy.vote
    defended = headline.clean.vote if headline.clean else None
    return (
        f"**Robust accuracy {percent(vote.value)}** (95 % interval {interval(vote)}; {vote.right} of {vote.n} images; "
        f"worst of {len(headline.attacks)} attacks; access: {', '.join(headline.access)}); "
        f"{percent(headline.accuracy.average)} on average over draws, {cell(headline.accuracy.worst_of_n)} right in "
        "every draw\n\n"
        "| | clean | attacked |\n|---|---|---|\n"
        f"| undefended | {cell(headline.undefended_clean)} | {cell(headline.undefended_attacked)} |\n"
        f"| {escaped(headline.defense)} | {cell(defended)} | **{cell(vote)}** |"
    )


def flags(report: Report) -> list[str]:
    """The checks, those that fired first."""
    if not report.flags:
        return ["## Checks\n\nNo check was made."]
    fired = sum(flag.fired for flag in report.flags)
    lines = [
        f"- {'**FIRED**' if flag.fired else flag.state}: {escaped(flag.name)}. {escaped(flag.what)}"
        + (f" ({escaped(flag.attack)})" if flag.attack else "")
        for flag in report.flags
    ]
    return [f"## Checks: {fired} of {len(report.flags)} fired", "\n".join(lines)]


def table(one: ReportTable) -> str:
    """A table under its title; empty without rows."""
    if not one.rows:
        return ""
    lines = ["| " + " | ".join(map(escaped, one.columns)) + " |", "|" + "---|" * len(one.columns)]
    for row in one.rows:
        cells = [cell(value) for value in row.cells]
        lines.append("| " + " | ".join(f"**{text}**" if row.strong and text else text for text in cells) + " |")
    note = [escaped(one.note)] if one.note else []
    return "\n\n".join([f"## {escaped(one.title)}", "\n".join(lines), *note])


def cell(value: Cell) -> str:
    """A cell; a rate with its interval and counts."""
    if isinstance(value, Rate):
        return f"{percent(value.value)} ({interval(value)}; {value.right}/{value.n})"
    return "–" if value is None else escaped(value)


def values(mapping: Mapping[str, Any]) -> str:
    """A list of names and values."""
    return "\n".join(f"- {escaped(name)}: {escaped(spelled(value))}" for name, value in mapping.items())


def spelled(value: object) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def escaped(text: str) -> str:
    """Text that Markdown takes for nothing else, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
