"""Inline SVG: an interval as a bar, accuracy against eps. Widths are shares, so text keeps its size on any screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.report.words import interval, percent

WIDE_RANGE = 8  # of the largest eps to the smallest: above it the axis is logarithmic
CLEAN_GAP = 0.18  # where the smallest eps lies on a logarithmic axis, the clean images being at 0
LABEL_GAP = 0.09  # between the labels of the axis


@dataclass(frozen=True, slots=True)
class Series:
    """A line of the chart.

    Attributes:
        name: in the legend.
        look: number of its colour, dash and mark in the style sheet; 3 is the bare classifier's.
        points: (eps as spelled, eps, accuracy), ascending; clean images at eps 0.
    """

    name: str
    look: int
    points: tuple[tuple[str, float, Rate], ...]


def interval_bar(rate: Rate, style: str = "bar") -> str:
    """The interval on a track from 0 to 1, the value as a mark in it."""
    label = f"{percent(rate.value)}, 95 % interval {interval(rate)}"
    return (
        f'<svg class="{style}" role="img" aria-label="{escape(label)}">'
        f'<rect class="track" x="0" y="40%" width="100%" height="20%" rx="2"/>'
        f'<rect class="range" x="{100 * rate.low:.2f}%" y="20%" width="{100 * (rate.high - rate.low):.2f}%" '
        f'height="60%" rx="3"/>'
        f'<line class="mark" x1="{100 * rate.value:.2f}%" x2="{100 * rate.value:.2f}%" y1="0" y2="100%"/></svg>'
    )


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


def eps_chart(series: Sequence[Series], norm: str) -> str:
    """Lines with interval bands, marked differently in colour, dash and shape; empty with fewer than two eps."""
    ticks = sorted({(eps, value) for one in series for eps, value, _ in one.points}, key=lambda tick: tick[1])
    if len([value for _, value in ticks if value > 0]) < 2:
        return ""
    values = [value for _, value in ticks if value > 0]
    lines = "".join(band(one, values) for one in series)
    marks = "".join(markers(one, values) for one in series)
    key = "".join(
        f'<li><svg class="key s{one.look}" aria-hidden="true"><line class="line" x1="0" x2="100%" y1="50%" y2="50%"/>'
        f"{marker(one.look, '50%', '50%')}</svg>{escape(one.name)}</li>"
        for one in series
    )
    label = f"Accuracy against eps in {norm}: " + "; ".join(
        f"{one.name} " + ", ".join(f"{percent(rate.value)} at {eps}" for eps, _, rate in one.points) for one in series
    )
    return (
        f'<ul class="legend">{key}</ul><div class="plot"><svg class="chart" role="img" aria-label="{escape(label)}">'
        f'{grid(ticks, values)}<svg viewBox="0 0 1 1" preserveAspectRatio="none" width="100%" height="100%">'
        f"{lines}</svg>{marks}</svg></div>"
    )


def position(value: float, values: Sequence[float]) -> float:
    """Where an eps lies on the axis, in [0, 1]; linear from 0, or logarithmic when the values span a wide range."""
    low, high = values[0], values[-1]
    if high / low <= WIDE_RANGE or value == 0:
        return value / high
    return CLEAN_GAP + (1 - CLEAN_GAP) * math.log(value / low) / math.log(high / low)


def band(series: Series, values: Sequence[float]) -> str:
    """A line and the band of its intervals, in the unit square."""
    places = [position(value, values) for _, value, _ in series.points]
    rates = [rate for _, _, rate in series.points]
    upper = [f"{x:.4f},{1 - rate.high:.4f}" for x, rate in zip(places, rates, strict=True)]
    lower = [f"{x:.4f},{1 - rate.low:.4f}" for x, rate in zip(places, rates, strict=True)]
    line = [f"{x:.4f},{1 - rate.value:.4f}" for x, rate in zip(places, rates, strict=True)]
    return (
        f'<g class="s{series.look}"><polygon class="band" points="{" ".join(upper + lower[::-1])}"/>'
        f'<polyline class="line" points="{" ".join(line)}"/></g>'
    )


def markers(series: Series, values: Sequence[float]) -> str:
    """The points of a line."""
    shapes = (
        marker(series.look, f"{100 * position(value, values):.2f}%", f"{100 * (1 - rate.value):.2f}%")
        for _, value, rate in series.points
    )
    return f'<g class="s{series.look}">{"".join(shapes)}</g>'


def marker(look: int, x: str, y: str) -> str:
    """A circle, square, diamond or ring."""
    square = (
        '<svg x="{x}" y="{y}" overflow="visible"><rect class="point" x="-4" y="-4" width="8" height="8"{turn}/></svg>'
    )
    if look in (1, 2):
        return square.format(x=x, y=y, turn=' transform="rotate(45)"' if look == 2 else "")
    return f'<circle class="{"point" if look == 0 else "ring"}" cx="{x}" cy="{y}" r="4.5"/>'


def grid(ticks: Sequence[tuple[str, float]], values: Sequence[float]) -> str:
    """Lines and labels of both axes."""
    parts = []
    for level in (0, 25, 50, 75, 100):
        y = 100 - level
        parts.append(f'<line class="rule" x1="0" x2="100%" y1="{y}%" y2="{y}%"/>')
        parts.append(f'<text x="0" dx="-8" y="{y}%" dy="4" text-anchor="end">{level} %</text>')
    last = -1.0
    for eps, value in ticks:
        x = position(value, values)
        if x - last >= LABEL_GAP:
            parts.append(f'<text x="{100 * x:.2f}%" y="100%" dy="20" text-anchor="middle">{escape(eps)}</text>')
            last = x
    return "".join(parts)
