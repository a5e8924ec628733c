"""Cells and notes of a report for attacks that skipped images, see :mod:`cmap_cli.benchmarking.cascade`."""

from __future__ import annotations

from collections.abc import Iterable

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import AttackRow, ThreatResult


def vote_cell(row: AttackRow) -> Rate | str | None:
    """The rate of the vote under an attack; only counts if the attack skipped images, because they are no accuracy."""
    if not row.skipped:
        return row.defended.vote if row.defended else None
    right = row.defended.vote.right if row.defended else 0
    return f"{right} of the {row.run_on} left" if row.run_on else "none left"


def cascade_note(threats: Iterable[ThreatResult]) -> str:
    """The note about attacks that skipped images; empty if there are none."""
    rows = [row for threat in threats for row in threat.attacks]
    if not any(row.skipped for row in rows):
        return ""
    order = {row.access: list(dict.fromkeys(one.attack for one in rows if one.access == row.access)) for row in rows}
    orders = "; ".join(f"{access}: {', '.join(names)}" for access, names in order.items() if len(names) > 1)
    return (
        " Cascade: an attack is not run on the images that an earlier attack with the same access has broken in every "
        f"draw. What is said of those left is not the accuracy under that attack. Order: {orders}."
    )
