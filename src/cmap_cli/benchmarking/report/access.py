"""Accuracy by the attacker's knowledge, from clean images to attacks on the defence itself."""

from __future__ import annotations

from dataclasses import dataclass

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.defenses.table import DEFENSES

ORDER = ("transfer", "surrogate", "bpda", "white-box", "black-box", "adaptive")
UNDEFENDED = 3  # number of the bare classifier's colour in the style sheet
LOOKS = {"clean": 0, "transfer": 1, "surrogate": 2, "bpda": 4, "white-box": 5, "black-box": 6, "adaptive": 7}


@dataclass(frozen=True, slots=True)
class AccessLevel:
    """A bar of the chart.

    Attributes:
        name: "clean", an access, or the bare classifier.
        look: number of its colour in the style sheet.
        rate: rate of the vote, in the worst case over the attacks with this access; None if not measured.
        missing: why it was not measured.
    """

    name: str
    look: int
    rate: Rate | None
    missing: str = ""


def access_levels(report: Report) -> list[AccessLevel]:
    """The bars of the headline's defence and ball; an access that was not run has no rate."""
    head, threat = report.headline, report.headline_threat()
    if head is None or threat is None:
        return []
    levels = [
        AccessLevel("undefended, clean", UNDEFENDED, head.undefended_clean, "not run"),
        AccessLevel("undefended, attacked", UNDEFENDED, head.undefended_attacked, "not run"),
    ]
    if head.defense == "none":
        return levels
    clean = head.clean.vote if head.clean else None
    levels.append(AccessLevel("clean", LOOKS["clean"], clean, "not run"))
    rates = {one.access: one.accuracy.vote for one in threat.by_access}
    possible = DEFENSES[head.defense].accesses if head.defense in DEFENSES else frozenset(ORDER)
    for name in dict.fromkeys((*ORDER, *rates)):
        missing = "not run" if name in possible else "does not apply"
        levels.append(AccessLevel(name, LOOKS.get(name, UNDEFENDED), rates.get(name), missing))
    return levels
