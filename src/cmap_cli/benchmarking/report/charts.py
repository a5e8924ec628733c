"""The charts of the page as positions in the unit square, y downwards; the templates draw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.report.words import percent

WIDE_RANGE = 8  # of the largest eps to the smallest: above it the axis is logarithmic
CLEAN_GAP = 0.18  # where the smallest eps lies on a logarithmic axis, the clean images being at 0
LABEL_GAP = 0.09  # between the labels of the axis

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Accuracies from the clean images to the largest eps.

    Attributes:
        name: in the legend.
        look: number of its colour, dash and mark in the style sheet; 3 is the bare classifier's.
        points: (eps as spelled, eps, accuracy), ascending; clean images at eps 0.
    """

    name: str
    look: int
    points: tuple[tuple[str, float, Rate], ...]


@dataclass(frozen=True, slots=True)
class ChartLine:
    """A series as it is drawn: its points, and the polygon of its intervals."""

    name: str
    look: int
    points: tuple[Place, ...]
    band: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A label of the horizontal axis."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class EpsChart:
    """Accuracy against eps in one norm; the description is for those who do not see it."""

    norm: str
    lines: tuple[ChartLine, ...]
    ticks: tuple[Tick, ...]
    description: str


def eps_charts(report: Report) -> list[EpsChart]:
    """A chart for each norm with two eps or more."""
    norms = dict.fromkeys(norm for norm, _ in report.balls())
    charts = (eps_chart(find_series(report, norm), norm) for norm in norms)
    return [chart for chart in charts if chart]


def find_series(report: Report, norm: str) -> list[Series]:
    """Accuracy of the bare classifier and of each defence, from the clean images to the largest eps."""
    found: list[Series] = []
    undefended: dict[str, tuple[str, float, Rate]] = {}
    for one in report.defenses:
        threats = [threat for threat in one.threats if threat.norm == norm and threat.worst_case]
        for threat in threats:
            if threat.undefended:
                undefended[threat.eps] = (threat.eps, threat.eps_value, threat.undefended)
        start = [("clean", 0.0, one.clean.vote)] if one.clean else []
        rest = [(threat.eps, threat.eps_value, threat.worst_case.vote) for threat in threats if threat.worst_case]
        if one.defense != "none":
            found.append(Series(one.defense, len(found) % 3, tuple(start + rest)))
    start = [("clean", 0.0, report.undefended_clean)] if report.undefended_clean else []
    found.append(Series("undefended", 3, tuple(start + sorted(undefended.values(), key=lambda point: point[1]))))
    return [series for series in found if len(series.points) > 1]


def eps_chart(series: Sequence[Series], norm: str) -> EpsChart | None:
    """The lines of a chart with their intervals; None with fewer than two eps."""
    ticks = sorted({(eps, value) for one in series for eps, value, _ in one.points}, key=lambda tick: tick[1])
    values = [value for _, value in ticks if value > 0]
    if len(values) < 2:
        return None
    description = f"Accuracy against eps in {norm}: " + "; ".join(
        f"{one.name} " + ", ".join(f"{percent(rate.value)} at {eps}" for eps, _, rate in one.points) for one in series
    )
    return EpsChart(norm, tuple(chart_line(one, values) for one in series), find_ticks(ticks, values), description)


def position(value: float, values: Sequence[float]) -> float:
    """Where an eps lies on the axis, in [0, 1]; linear from 0, or logarithmic when the values span a wide range."""
    low, high = values[0], values[-1]
    if high / low <= WIDE_RANGE or value == 0:
        return value / high
    return CLEAN_GAP + (1 - CLEAN_GAP) * math.log(value / low) / math.log(high / low)


def chart_line(series: Series, values: Sequence[float]) -> ChartLine:
    """Where a series lies."""
    rates = [(position(value, values), rate) for _, value, rate in series.points]
    upper, lower = [(x, 1 - rate.high) for x, rate in rates], [(x, 1 - rate.low) for x, rate in rates]
    middle = tuple((x, 1 - rate.value) for x, rate in rates)
    return ChartLine(series.name, series.look, middle, tuple(upper + lower[::-1]))


def find_ticks(ticks: Sequence[tuple[str, float]], values: Sequence[float]) -> tuple[Tick, ...]:
    """The labels of the axis, without those that would touch the one before."""
    shown: list[Tick] = []
    for eps, value in ticks:
        x = position(value, values)
        if not shown or x - shown[-1].x >= LABEL_GAP:
            shown.append(Tick(x, eps))
    return tuple(shown)
