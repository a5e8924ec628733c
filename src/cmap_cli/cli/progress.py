"""Progress of long work: a spinner, a bar and the current work on a terminal, else a line of text from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cmap_cli.cli import console
from cmap_cli.runs.forecast import Forecast, Span

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_SECONDS = 30.0
PLAIN_SHARE = 0.02
PLAIN_PAUSE = 2.0
FORESEEABLE_SHARE = 0.1
UNIT = "unit"
BAR_WIDTH = 20


class Reporter:
    """Shows how much of the work is done, and how long the rest will take.

    Args:
        total: units of the whole work; None while that is not known.
        unit: name of a unit.
        bar: the bar on a terminal; None for lines of text.
    """

    def __init__(self, total: int | None, unit: str, bar: Progress | None) -> None:
        self.unit = unit
        self.done = 0
        self.before: int | None = None
        self.shown_at = self.finished_at = time.monotonic()
        self.shown = 0
        self.left: Span | None = None
        self.inside = ""
        self.bar = bar
        self.task = bar.add_task("", total=total, unit=unit, left="", count="") if bar else None
        self.total = total
        self.forecast = Forecast({UNIT: Span()}, {UNIT: total or 0})

    def work(self, text: str) -> None:
        """Name the current work while no units can be counted."""
        if self.bar is None:
            console.say(f"{text} ...")
        self.detail(text)

    def begin(self, total: int, unit: str) -> None:
        """Begin to count: the number of units is known."""
        self.total, self.unit = total, unit
        self.forecast = Forecast({UNIT: Span()}, {UNIT: total})
        self.finished_at = time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, total=total)

    def advance(self, count: int = 1) -> None:
        """Count further finished units."""
        now = time.monotonic()
        if count:
            self.forecast.finish(UNIT, now - self.finished_at, count)
            self.finished_at = now
        self.done += count
        self.show(now)

    def reach(self, done: int, left: Span | None = None) -> None:
        """Set the number of finished units. Those of the first call are from an earlier run and not used for the speed.

        Args:
            done: number of finished units.
            left: how long the rest takes, if the caller has a better estimate than one from the units before.
        """
        self.left = left
        if self.before is not None:
            self.advance(done - self.done)
            return
        self.before = self.done = self.shown = done
        self.forecast = Forecast({UNIT: Span()}, {UNIT: (self.total or 0) - done})
        self.shown_at = self.finished_at = time.monotonic()
        self.show(self.shown_at)

    def remaining(self) -> Span | None:
        """How long the rest takes; None while nothing is known."""
        if self.left is not None:
            return self.left if self.left.high else None
        before = self.before or 0
        known = self.done > before and self.done - before >= ((self.total or 0) - before) * FORESEEABLE_SHARE
        return self.forecast.left() if known and self.done < (self.total or 0) else None

    def show(self, now: float) -> None:
        """Show the progress: at once on a terminal, else if the last line was printed some time ago."""
        if self.bar is not None and self.task is not None:
            count = "" if self.total is None else f"{self.done}/{self.total} {self.unit}"
            self.bar.update(self.task, completed=self.done, count=count, left=self.time_left())
            return
        waited, progressed = now - self.shown_at, self.done - self.shown
        if waited >= PLAIN_SECONDS or (waited >= PLAIN_PAUSE and progressed >= (self.total or 0) * PLAIN_SHARE):
            of = f"{self.done}/{self.total} {self.unit}"
            console.say(", ".join(each for each in (of, self.time_left(), self.inside) if each))
            self.shown_at, self.shown = now, self.done

    def time_left(self) -> str:
        """How long the rest takes, as text; empty while nothing is known."""
        left = self.remaining()
        return f"{console.time_range(left)} left" if left else ""

    @property
    def shows_detail(self) -> bool:
        """Whether :meth:`detail` is shown at once; if not, the caller need not compute it."""
        return self.bar is not None

    def detail(self, text: str) -> None:
        """Show the current work."""
        self.inside = text
        if self.bar is not None:
            self.bar.inside = text  # type: ignore[attr-defined]  # of terminal_bar


def terminal_bar() -> Progress:
    """A spinner, a bar, numbers and the time that is left on one line; below it the current work."""
    from rich.console import RenderableType
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
    from rich.text import Text

    class Bar(Progress):
        inside = ""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            if self.inside:
                yield Text(f"  {self.inside}", no_wrap=True, overflow="ellipsis")

    columns: list[Any] = [SpinnerColumn(), BarColumn(BAR_WIDTH)]
    columns += [TextColumn("{task.fields[count]}"), TextColumn("{task.fields[left]}")]
    return Bar(*columns, console=console.errors, redirect_stdout=False, transient=True)


@contextmanager
def reporting(total: int | None, unit: str, *, quiet: bool = False, loading: str = "") -> Iterator[Reporter]:
    """A Reporter for the duration of some work.

    Args:
        total: units of it; None if that is not known yet.
        unit: what they are called.
        quiet: show nothing.
        loading: text shown until units can be counted.
    """
    from rich.progress import Progress

    if quiet or not console.leads():
        yield Reporter(total, unit, Progress(disable=True))
        return
    if not console.errors.is_terminal:
        reporter = Reporter(total, unit, None)
        if loading:
            reporter.work(loading)
        yield reporter
        return
    with terminal_bar() as bar:
        reporter = Reporter(total, unit, bar)
        if loading:
            reporter.work(loading)
        yield reporter


@contextmanager
def reporting_units(unit: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how many units are done, and of how many; their number is not known at the beginning."""
    with reporting(None, unit, quiet=quiet, loading="loading") as reporter:

        def report(done: int, total: int) -> None:
            if reporter.total is None:
                reporter.begin(total, unit)
                reporter.detail("")
            reporter.reach(done)

        yield report
