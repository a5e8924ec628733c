"""How long work will take, as a range: from a short measurement, corrected by the times of finished tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

FASTER, SLOWER = 0.7, 1.4
"""Factors by which a task may be faster or slower than a short measurement, on a machine with other work."""
TRUST = 0.1
"""When this share of all work is finished, finished tasks and the measurement count equally."""
NARROWEST, UNKNOWN = 0.1, 0.5
"""Half the width of a range as a share of it: however many tasks were seen, and if nothing was measured before."""


@dataclass(frozen=True, slots=True)
class Span:
    """An estimated duration.

    Attributes:
        low: seconds that it takes at least, probably.
        high: seconds that it takes at most, probably.
    """

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: Span) -> Span:
        """The duration of both, one after the other."""
        return Span(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        """The duration of several repetitions."""
        return Span(self.low * factor, self.high * factor)

    def within(self, seconds: float) -> Span:
        """What it takes at most, if it ends after this time whatever is left."""
        return Span(min(self.low, seconds), min(self.high, seconds))

    @property
    def middle(self) -> float:
        """The geometric mean of both ends, or half of ``high`` if ``low`` is 0."""
        return math.sqrt(self.low * self.high) or self.high / 2


def measured(seconds: float, least: float = 1.0) -> Span:
    """What a short measurement says.

    Args:
        seconds: computed from it.
        least: share of this that is enough where the work may end early.
    """
    return from_measurement(Span(seconds * least, seconds))


def from_measurement(found: Span) -> Span:
    """What a short measurement says, of which the ends are known: on a machine that is idle, and on one as busy as now.

    Args:
        found: computed from it.
    """
    return Span(found.low * FASTER, found.high * SLOWER)


@dataclass(slots=True)
class TaskTimes:
    """The finished tasks of a kind, as sums (Welford 1962), so that adding one takes no longer after a million.

    Attributes:
        count: how many.
        mean: seconds of one.
        squares: sum of squared differences from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, seconds: float, count: int) -> None:
        """Add tasks that took so many seconds each."""
        before, difference = self.count, seconds - self.mean
        self.count += count
        self.mean += difference * count / self.count
        self.squares += difference**2 * before * count / self.count

    @property
    def deviation(self) -> float:
        """Standard deviation of the seconds of a task; 0 for one task."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0


class Forecast:
    """The time that is left for tasks of a few kinds. The only place that estimates while work goes on.

    A kind of which tasks have finished is judged by these; the others by the measurement before the work, corrected by
    how far the finished ones were from theirs.

    Args:
        spans: of one task of each kind, from a measurement.
        counts: tasks that remain, of each kind.
    """

    def __init__(self, spans: Mapping[str, Span], counts: Mapping[str, int]) -> None:
        self.spans = dict(spans)
        self.counts = dict(counts)
        self.trusted = TRUST * sum(span.middle * self.counts.get(kind, 0) for kind, span in self.spans.items())
        self.times: dict[str, TaskTimes] = {}
        self._left: Span | None = None

    def finish(self, kind: str, seconds: float, count: int = 1) -> None:
        """Record finished tasks.

        Args:
            kind: of them.
            seconds: that they took together.
            count: how many.
        """
        self.counts[kind] -= count
        self.times.setdefault(kind, TaskTimes()).add(seconds / count, count)
        self._left = None

    def task(self, kind: str) -> Span:
        """The duration of one more task of a kind."""
        before, finished = self.spans[kind] * self.speed(), self.times.get(kind)
        if finished is None:
            return before
        weight, mean = 1 / (1 + finished.count), finished.mean
        if before.middle:
            mean = weight * before.middle + (1 - weight) * mean
        wide = max(before.high / before.middle - 1, UNKNOWN) if before.middle else UNKNOWN
        scatter = finished.deviation / mean if mean else 0.0
        share = NARROWEST + max((wide - NARROWEST) * math.sqrt(weight), 2.5 * scatter / math.sqrt(finished.count))
        return Span(mean / (1 + share), mean * (1 + share))

    def speed(self) -> float:
        """How long the finished tasks took, as a multiple of what was measured before; 1 before any is finished.

        The measurement keeps the weight of a share of all work, so that the first short task does not decide.
        """
        expected = self.trusted + sum(self.spans[kind].middle * each.count for kind, each in self.times.items())
        took = self.trusted + sum(each.mean * each.count for each in self.times.values())
        return took / expected if expected else 1.0

    def left(self) -> Span:
        """The duration of all tasks that remain; kept until one finishes, because progress asks at every pass."""
        if self._left is None:
            remaining = [self.task(kind) * count for kind, count in self.counts.items() if count > 0]
            self._left = sum(remaining, Span())
        return self._left
