"""The only module that prints. stdout is the result and nothing else, stderr is talk."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO

from rich.console import Console
from rich.markup import escape

from cmap_cli.cli import github
from cmap_cli.errors import CmapError
from cmap_cli.runs.shard import launched_shard

if TYPE_CHECKING:
    from rich.progress import Progress

    from cmap_cli.runs.documents import Document

P = ParamSpec("P")

PLAIN_SECONDS = 30.0
PLAIN_SHARE = 0.02
PLAIN_PAUSE = 2.0
FORESEEABLE_SHARE = 0.1
COLUMN_SPACE = 3
"""Between the columns of a table."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)


results: TextIO | None = None
"""Where results are printed inside :func:`own_stdout`; None for sys.stdout."""


def result(text: str) -> None:
    """A line of the result, on stdout."""
    print(text, file=results, flush=True)


@contextmanager
def own_stdout() -> Iterator[None]:
    """Keep stdout for :func:`result`; what other code prints there, C libraries included, goes to stderr."""
    global results  # noqa: PLW0603 - a process has one standard output
    if sys.stdout is None:  # closed by whoever started the process
        yield
        return
    try:
        is_real = sys.stdout.fileno() == 1
    except (OSError, ValueError):  # a test's
        is_real = False
    if not is_real:
        results = sys.stdout
        try:
            with redirect_stdout(sys.stderr):
                yield
        finally:
            results = None
        return
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as results:
            os.dup2(2, 1)
            try:
                yield
            finally:
                sys.stdout.flush()
                os.dup2(kept, 1)
    finally:
        results = None


def keeping_stdout(command: Callable[P, None]) -> Callable[P, None]:
    """A command inside :func:`own_stdout`, with the same options."""

    @wraps(command)
    def kept(*arguments: P.args, **options: P.kwargs) -> None:
        with own_stdout():
            command(*arguments, **options)

    return kept


def result_json(document: dict[str, Any] | Document) -> None:
    """The one JSON document of --json, on stdout."""
    if not isinstance(document, dict):
        from msgspec import to_builtins

        document = to_builtins(document)
    if leads():
        result(json.dumps(document, indent=2, allow_nan=False))


def leads() -> bool:
    """Whether this process is alone or the first of those that torchrun started; the others only print errors."""
    shard = launched_shard()
    return shard is None or shard.index == 1


def say(text: str) -> None:
    """Talk, on stderr."""
    if leads():
        errors.print(text, markup=False)


def warn(text: str) -> None:
    """A warning, on stderr."""
    if leads():
        errors.print(f"[yellow]warning:[/yellow] {escape(text)}")
        annotate("warning", text)


def fail(error: CmapError) -> None:
    """An error and its hint, on stderr."""
    shard = launched_shard()
    who = f"rank {shard.index - 1}: " if shard is not None and shard.count > 1 else ""
    errors.print(f"[bold red]{who}error:[/bold red] {escape(error.message)}.")
    if error.hint:
        errors.print(f"[cyan]hint:[/cyan] {escape(error.hint)}")
    annotate("error", f"{who}{error.message}")


def annotate(level: str, text: str) -> None:
    """The same for GitHub Actions, which reads commands from stderr too."""
    if github.on_github():
        errors.print(github.annotation(level, text), markup=False)


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


class Reporter:
    """Progress over images with steps inside: a bar on a terminal, else a plain line now and then."""

    def __init__(self, total: int, unit: str, bar: Progress | None) -> None:
        self.total = total
        self.unit = unit
        self.done = 0
        self.before: int | None = None
        self.began = self.told_at = time.monotonic()
        self.told = 0
        self.bar = bar
        self.task = bar.add_task("", total=total, detail="") if bar else None

    def advance(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=self.done)
            return
        now = time.monotonic()
        waited, progressed = now - self.told_at, self.done - self.told
        if waited >= PLAIN_SECONDS or (waited >= PLAIN_PAUSE and progressed >= self.total * PLAIN_SHARE):
            before = self.before or 0
            known = self.done > before and self.done - before >= (self.total - before) * FORESEEABLE_SHARE
            left = (now - self.began) / max(1, self.done - before) * (self.total - self.done)
            say(f"{self.done}/{self.total} {self.unit}" + (f", about {duration(left)} left" if known else ""))
            self.told_at, self.told = now, self.done

    def reach(self, done: int) -> None:
        """``done`` are done in all; what an earlier run did, the first call's, says nothing about the speed."""
        if self.before is not None:
            self.advance(done - self.done)
            return
        self.before = self.done = self.told = done
        self.began = self.told_at = time.monotonic()
        if self.bar is not None and self.task is not None:
            self.bar.reset(self.task, completed=done)

    @property
    def shows_detail(self) -> bool:
        """Whether :meth:`detail` is seen by anyone; if not, what it costs can be saved."""
        return self.bar is not None

    def detail(self, text: str) -> None:
        """What is going on inside the current one."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, detail=text)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of the result, on stdout: drawn on a terminal, Markdown when piped."""
    stream = results or sys.stdout
    if not stream.isatty():
        for cells in (header, ["---"] * len(header), *rows):
            result("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(file=stream, highlight=False)
    words = [
        max(len(word) for cell in column for word in cell.split() or [""]) for column in zip(header, *rows, strict=True)
    ]
    fits = sum(words) + COLUMN_SPACE * len(words) <= console.width  # then no word is cut
    columns = (Column(name, overflow="fold", min_width=words[at] if fits else None) for at, name in enumerate(header))
    drawn = Table(*columns, box=SIMPLE_HEAD)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


@contextmanager
def working(text: str, *, quiet: bool = False) -> Iterator[None]:
    """A spinner on a terminal, else a line, while something takes a few seconds."""
    if quiet or not leads():
        yield
    elif errors.is_terminal:
        with errors.status(escape(text)):
            yield
    else:
        say(f"{text} ...")
        yield


@contextmanager
def reporting(total: int, unit: str, *, quiet: bool = False) -> Iterator[Reporter]:
    """A Reporter for the duration of a loop; ``quiet`` shows nothing."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet:
        yield Reporter(total, unit, Progress(disable=True))
    elif not errors.is_terminal:
        yield Reporter(total, unit, None)
    else:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=errors, redirect_stdout=False, transient=True) as bar:
            yield Reporter(total, unit, bar)


def stdin_is_terminal() -> bool:
    """Whether nobody pipes anything in."""
    return sys.stdin.isatty()
