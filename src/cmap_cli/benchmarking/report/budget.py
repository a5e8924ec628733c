"""The budget of the attacks of a run, from its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmap_cli.benchmarking.report.values import Headline, Report
from cmap_cli.benchmarking.report.words import counted


def find_budget(report: Report) -> list[tuple[str, str]]:
    """Names and values to show beside the headline: of its attacks, and of the evaluation."""
    head = report.headline
    budget = report.settings.get("budget") or {}
    rows = attack_budget(head, budget) if head else []
    if draws := report.settings.get("reevaluations"):
        rows.append(("Re-evaluations", f"{counted(draws, 'draw')} per image"))
    if head:
        rows.append(("Images", str(head.n)))
    return rows


def attack_budget(head: Headline, budget: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the attacks that were run."""
    names = {name.partition("@")[0] for name in head.attacks}
    rows = []
    if "pgd" in names and budget.get("paper"):
        rows.append(("PGD", "as published: 200 steps, 20 draws per gradient"))
    elif "pgd" in names and "steps" in budget:
        restarts = f", {counted(budget['restarts'], 'restart')}" if "restarts" in budget else ""
        rows.append(("PGD", f"{counted(budget['steps'], 'step')}{restarts}"))
    if "hammer" in names and "steps" in budget:
        rows.append(("Hammer", counted(budget["steps"], "step")))
    if (
        names - {"square", "disruption", "hammer"}
        and head.through_defense
        and "eot" in budget
        and not budget.get("paper")
    ):
        rows.append(("EOT", f"{counted(budget['eot'], 'draw')} per gradient"))
    if "square" in names and "queries" in budget:
        rows.append(("Square", f"{counted(budget['queries'], 'query', 'queries')} per image"))
    if "disruption" in names and "disruption" in budget:
        rows.append(("Disruption", counted(budget["disruption"], "step")))
    return rows
