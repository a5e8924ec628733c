"""Which budgets of a run are weak: a defence that withstands them may still fall to a stronger attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cmap_cli.benchmarking.report.values import AttackRow, Report
from cmap_cli.defenses.table import DEFENSES

FEW_STEPS, REFERENCE_STEPS = 50, 100
FEW_SELECTIVE_STEPS, REFERENCE_SELECTIVE_STEPS = 20, 30
FEW_QUERIES, REFERENCE_QUERIES = 1000, 5000
FEW_DISRUPTION_STEPS, REFERENCE_DISRUPTION_STEPS = 500, 1000
FEW_EVALUATIONS, REFERENCE_EVALUATIONS = 10, 20
WIDE = 0.2
GRADIENT_ACCESS = ("bpda", "white-box")
ONE_DRAW_IS_ENOUGH = ("autoattack-rand", "square", "hammer")
"""Attacks that average over draws, or use no gradient, whatever --eot is."""


def weak_points(report: Report) -> tuple[str, ...]:
    """The weak budgets of a run, one sentence each; none if there is nothing to say."""
    budget, settings = report.settings.get("budget"), report.settings
    rows = [(one.defense, row) for one in report.defenses for threat in one.threats for row in threat.attacks]
    found: list[str] = []
    if isinstance(budget, Mapping):
        found += weak_attacks([row for _, row in rows], budget)
        found += weak_draws(rows, budget)
    evaluations = settings.get("reevaluations")
    randomised = [one.defense for one in report.defenses if is_randomised(one.defense)]
    if randomised and isinstance(evaluations, int) and evaluations < FEW_EVALUATIONS:
        times = "once" if evaluations == 1 else f"{evaluations} times"
        found.append(f"each image is evaluated {times}; the reference is {REFERENCE_EVALUATIONS} (--reevaluations)")
    headline = report.headline
    if headline is not None and headline.accuracy.vote.high - headline.accuracy.vote.low > WIDE:
        rate = headline.accuracy.vote
        images = "1 image gives" if rate.n == 1 else f"{rate.n} images give"
        found.append(f"{images} an interval that is {100 * (rate.high - rate.low):.0f} points wide (--n)")
    return tuple(dict.fromkeys(found))


def is_randomised(defense: str) -> bool:
    """Whether another seed gives another result; a defence that is not known may be."""
    return defense not in DEFENSES or DEFENSES[defense].is_randomised


def weak_attacks(rows: list[AttackRow], budget: Mapping[str, Any]) -> Iterator[str]:
    """Attacks that try little."""
    names = {row.attack for row in rows}
    limits = (
        ("pgd", "steps", FEW_STEPS, REFERENCE_STEPS, "steps", "--attack-steps"),
        ("hammer", "steps", FEW_SELECTIVE_STEPS, REFERENCE_SELECTIVE_STEPS, "steps", "--attack-steps"),
        ("square", "queries", FEW_QUERIES, REFERENCE_QUERIES, "queries", "--queries"),
        ("disruption", "disruption", FEW_DISRUPTION_STEPS, REFERENCE_DISRUPTION_STEPS, "steps", "--disruption-steps"),
    )
    for attack, key, few, reference, noun, option in limits:
        value = budget.get(key)
        if attack in names and isinstance(value, int) and value < few and not (attack == "pgd" and budget.get("paper")):
            yield f"{attack} has {value} of {reference} {noun} ({option})"
    unroll = budget.get("unroll")
    if isinstance(unroll, int) and any(row.access == "white-box" for row in rows):
        yield f"white-box gradients go back through the last {unroll} optimisation steps only (--unroll)"


def weak_draws(rows: list[tuple[str, AttackRow]], budget: Mapping[str, Any]) -> Iterator[str]:
    """Gradients of one draw on a randomised defence."""
    if budget.get("paper") or budget.get("eot") != 1:
        return
    attacks = [
        f"{row.attack}@{row.access}"
        for defense, row in rows
        if is_randomised(defense) and row.access in GRADIENT_ACCESS and row.attack not in ONE_DRAW_IS_ENOUGH
    ]
    if attacks:
        listed = ", ".join(dict.fromkeys(attacks))
        yield f"{listed} follow gradients of one draw of a randomised defence; the reference is 20 (--eot)"
