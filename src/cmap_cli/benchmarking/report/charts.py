"""The charts of the page as positions in the unit square, y downwards; the templates draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cmap_cli.benchmarking.report.access import LOOKS, ORDER, UNDEFENDED
from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.report.words import percent

LABEL_GAP = 0.09  # between the labels of the axis

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Accuracies from the clean images to the largest eps.

    Attributes:
        name: name in the legend.
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
    """Accuracy against eps in one norm; the description is the text for screen readers."""

    norm: str
    caption: str
    lines: tuple[ChartLine, ...]
    ticks: tuple[Tick, ...]
    description: str


def eps_charts(report: Report) -> list[EpsChart]:
    """For each norm with two eps or more: the headline's defence by access, then the defences side by side."""
    charts = []
    for norm in dict.fromkeys(norm for norm, _ in report.balls()):
        if report.headline and report.headline.defense != "none":
            caption = f"{report.headline.defense} by what the attacker knows, the worst case over the attacks of each"
            charts.append(eps_chart(access_series(report, norm), norm, caption))
        if len(report.defenses) > 1 or not charts:
            caption = "Defences side by side, the worst case over all attacks"
            charts.append(eps_chart(defense_series(report, norm), norm, caption))
    return [chart for chart in charts if chart]


def access_series(report: Report, norm: str) -> list[Series]:
    """Accuracy of the headline's defence against eps, for each access, and of the bare classifier."""
    chosen = [one for one in report.defenses if report.headline and one.defense == report.headline.defense]
    found: list[Series] = []
    for one in chosen:
        start = [("0", 0.0, one.clean.vote)] if one.clean else []
        points: dict[str, list[tuple[str, float, Rate]]] = {}
        for threat in one.threats:
            for level in threat.by_access if threat.norm == norm else ():
                points.setdefault(level.access, []).append((threat.eps, threat.eps_value, level.accuracy.vote))
        names = [*(name for name in ORDER if name in points), *(name for name in points if name not in ORDER)]
        found += [Series(name, LOOKS.get(name, UNDEFENDED), tuple(start + points[name])) for name in names]
    found.append(undefended_series(report, norm))
    return [series for series in found if len(series.points) > 1]


def undefended_series(report: Report, norm: str) -> Series:
    """Accuracy of the bare classifier against eps."""
    points = {
        threat.eps: (threat.eps, threat.eps_value, threat.undefended)
        for one in report.defenses
        for threat in one.threats
        if threat.norm == norm and threat.attacks and threat.undefended
    }
    start = [("0", 0.0, report.undefended_clean)] if report.undefended_clean else []
    return Series("undefended", UNDEFENDED, tuple(start + sorted(points.values(), key=lambda point: point[1])))


def defense_series(report: Report, norm: str) -> list[Series]:
    """Accuracy of each defence and of the bare classifier, from the clean images to the largest eps."""
    found: list[Series] = []
    for one in report.defenses:
        start = [("0", 0.0, one.clean.vote)] if one.clean else []
        rest = [
            (threat.eps, threat.eps_value, threat.worst_case.vote)
            for threat in one.threats
            if threat.norm == norm and threat.worst_case
        ]
        if one.defense != "none":
            found.append(Series(one.defense, len(found) % 3, tuple(start + rest)))
    found.append(undefended_series(report, norm))
    return [series for series in found if len(series.points) > 1]


def eps_chart(series: Sequence[Series], norm: str, caption: str) -> EpsChart | None:
    """The lines of a chart with their intervals, on an axis linear in eps; None with fewer than two eps."""
    ticks = sorted({(eps, value) for one in series for eps, value, _ in one.points}, key=lambda tick: tick[1])
    values = [value for _, value in ticks if value > 0]
    if len(values) < 2:
        return None
    description = f"{caption}. Accuracy against eps in {norm}: " + "; ".join(
        f"{one.name} " + ", ".join(f"{percent(rate.value)} at {eps}" for eps, _, rate in one.points) for one in series
    )
    return EpsChart(norm, caption, tuple(chart_line(one, values[-1]) for one in series), find_ticks(ticks), description)


def submission_chart(report: Report) -> EpsChart | None:
    """Accuracy of the headline's defence against the number of times that an image is submitted."""
    threat, head = report.headline_threat(), report.headline
    if threat is None or head is None or not threat.resubmissions:
        return None
    points = threat.resubmissions
    last = points[-1].submissions
    drawn = [("clean images", UNDEFENDED, [(one.submissions, one.clean) for one in points if one.clean is not None])]
    drawn.append(("attacked images", 0, [(one.submissions, one.attacked) for one in points]))
    lines = tuple(
        ChartLine(name, look, tuple(((count - 1) / (last - 1), 1 - share) for count, share in places), ())
        for name, look, places in drawn
        if places
    )
    ticks = find_ticks([(str(one.submissions), (one.submissions - 1) / (last - 1)) for one in points])
    caption = f"{head.defense} within {head.norm} {head.eps}"
    accuracies = "; ".join(f"{percent(one.attacked)} after {one.submissions}" for one in points)
    return EpsChart(head.norm, caption, lines, ticks, f"{caption}. Accuracy on attacked images: {accuracies}")


def chart_line(series: Series, largest: float) -> ChartLine:
    """The positions of a series; the largest eps is at 1."""
    rates = [(value / largest, rate) for _, value, rate in series.points]
    upper, lower = [(x, 1 - rate.high) for x, rate in rates], [(x, 1 - rate.low) for x, rate in rates]
    middle = tuple((x, 1 - rate.value) for x, rate in rates)
    return ChartLine(series.name, series.look, middle, tuple(upper + lower[::-1]))


def find_ticks(ticks: Sequence[tuple[str, float]]) -> tuple[Tick, ...]:
    """The labels of the axis: 0, the largest eps, and others in between if there is room."""
    largest = ticks[-1][1]
    shown: list[Tick] = [Tick(0.0, ticks[0][0] if not ticks[0][1] else "0"), Tick(1.0, ticks[-1][0])]
    for eps, value in ticks:
        x = value / largest
        if all(abs(x - tick.x) >= LABEL_GAP for tick in shown):
            shown.append(Tick(x, eps))
    return tuple(sorted(shown, key=lambda tick: tick.x))
