"""Weak budgets of a run: a defence that withstands them may not withstand a stronger attack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import Report
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


@dataclass(frozen=True, slots=True)
class TriedAttack:
    """An attack on a defence, with the attacker's access."""

    defense: str
    attack: str
    access: str


def weak_points(report: Report) -> tuple[str, ...]:
    """The weak budgets of a run, one sentence each; none if no budget is weak."""
    attacks = [
        TriedAttack(one.defense, row.attack, row.access or "")
        for one in report.defenses
        for threat in one.threats
        for row in threat.attacks
    ]
    found = weak_settings(attacks, [one.defense for one in report.defenses], report.settings)
    rate = report.headline.accuracy.vote if report.headline is not None else None
    return tuple(dict.fromkeys([*found, *(weak_interval(rate) if rate else ())]))


def weak_settings(attacks: list[TriedAttack], defenses: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
    """The budgets that are weak whatever the results, a sentence each.

    Args:
        attacks: the attacks of the run.
        defenses: names of the evaluated defences.
        settings: the settings as in benchmark.json.
    """
    budget, found = settings.get("budget"), list[str]()
    if isinstance(budget, Mapping):
        found += weak_attacks(attacks, budget)
        found += weak_draws(attacks, budget)
    evaluations = settings.get("reevaluations")
    randomised = [name for name in defenses if is_randomised(name)]
    if randomised and isinstance(evaluations, int) and evaluations < FEW_EVALUATIONS:
        times = "once" if evaluations == 1 else f"{evaluations} times"
        found.append(f"each image is evaluated {times}; the reference is {REFERENCE_EVALUATIONS} (--reevaluations)")
    return found


def weak_interval(rate: Rate) -> Iterator[str]:
    """A sentence if there are too few images."""
    if rate.high - rate.low > WIDE:
        images = "1 image gives" if rate.n == 1 else f"{rate.n} images give"
        yield f"{images} an interval that is {100 * (rate.high - rate.low):.0f} points wide (--n)"


def is_randomised(defense: str) -> bool:
    """Whether another seed gives another result; an unknown defence counts as randomised."""
    return defense not in DEFENSES or DEFENSES[defense].is_randomised


def weak_attacks(attacks: list[TriedAttack], budget: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each attack with few steps or queries."""
    names = {each.attack for each in attacks}
    limits = (
        ("pgd", "steps", FEW_STEPS, REFERENCE_STEPS, "steps", "--attack-steps"),
        ("mdi-pgd", "steps", FEW_STEPS, REFERENCE_STEPS, "steps", "--attack-steps"),
        ("hammer", "steps", FEW_SELECTIVE_STEPS, REFERENCE_SELECTIVE_STEPS, "steps", "--attack-steps"),
        ("square", "queries", FEW_QUERIES, REFERENCE_QUERIES, "queries", "--queries"),
        ("disruption", "disruption", FEW_DISRUPTION_STEPS, REFERENCE_DISRUPTION_STEPS, "steps", "--disruption-steps"),
    )
    for name, key, few, reference, noun, option in limits:
        value = budget.get(key)
        if name in names and isinstance(value, int) and value < few and not (name == "pgd" and budget.get("paper")):
            yield f"{name} has {value} of {reference} {noun} ({option})"
    unroll = budget.get("unroll")
    if isinstance(unroll, int) and any(each.access == "white-box" for each in attacks):
        yield f"white-box gradients are computed through the last {unroll} optimisation steps only (--unroll)"


def weak_draws(attacks: list[TriedAttack], budget: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each attack on a randomised defence with one draw per gradient."""
    if budget.get("paper") or budget.get("eot") != 1:
        return
    single = [
        f"{each.attack}@{each.access}"
        for each in attacks
        if is_randomised(each.defense) and each.access in GRADIENT_ACCESS and each.attack not in ONE_DRAW_IS_ENOUGH
    ]
    if single:
        names = list(dict.fromkeys(single))
        use = "uses" if len(names) == 1 else "use"
        yield f"{', '.join(names)} {use} gradients of one draw of a randomised defence; the reference is 20 (--eot)"
