"""The only module that prints, with :mod:`.stdout`. Only results go to stdout; messages go to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cmap_cli.cli import github, stdout
from cmap_cli.cli.stdout import printable
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.shard import Shard, launched_shard

if TYPE_CHECKING:
    from cmap_cli.runs.documents import Document
    from cmap_cli.runs.forecast import Span

COLUMN_SPACE = 3
"""Between the columns of a table."""

errors = Console(stderr=True, highlight=False, soft_wrap=True)
result = stdout.result


def result_json(document: dict[str, Any] | Document) -> None:
    """The one JSON document of --json, on stdout."""
    if not isinstance(document, dict):
        from msgspec import to_builtins

        document = to_builtins(document)
    if leads():
        result(json.dumps(document, indent=2, allow_nan=False))


def leads() -> bool:
    """Whether this process is alone or the first of those that torchrun started; the others only print errors."""
    shard = own_shard()
    return shard is None or shard.index == 1


def own_shard() -> Shard | None:
    """The shard that torchrun gave this process; None if its variables are wrong, which is an error later."""
    try:
        return launched_shard()
    except UsageError:
        return None


def say(text: str) -> None:
    """Print a message on stderr."""
    if leads():
        talk(printable(text))


def talk(text: str, label: str = "", style: str = "") -> None:
    """Print on stderr, after a coloured label; a full disk or a closed stderr does not end the work.

    Args:
        text: printed as it is; nothing in it is markup.
        label: such as "error: ".
        style: of the label.
    """
    with suppress(OSError):
        errors.print(Text.assemble((label, style), text))


def warn(text: str) -> None:
    """Print a warning on stderr."""
    if leads():
        talk(printable(text, lines=False), "warning: ", "yellow")
        annotate("warning", text)


def fail(error: CmapError) -> None:
    """Print an error and its hint on stderr."""
    shard = own_shard()
    who = f"rank {shard.index - 1}: " if shard is not None and shard.count > 1 else ""
    talk(f"{printable(error.message, lines=False)}.", f"{who}error: ", "bold red")
    if error.hint:
        talk(printable(error.hint, lines=False), "hint: ", "cyan")
    annotate("error", f"{who}{error.message}")


def annotate(level: str, text: str) -> None:
    """Print it also as an annotation for GitHub Actions, which reads commands from stderr."""
    if github.on_github():
        talk(github.annotation(level, printable(text)))


def count(number: int, noun: str, plural: str = "") -> str:
    """A number of things: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"


def time_range(span: Span) -> str:
    """An estimate in words: "4 to 9 min", "40 s to 2 min", "about 3 min"."""
    units = ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (math.inf, 86400, "days"))
    size, unit = next((size, unit) for limit, size, unit in units if span.high < limit)
    digits = 1 if unit == "h" else 0
    low, high = (f"{each / size:.{digits}f}" for each in (span.low, span.high))
    if high == low or span.high < 1:
        return "less than 1 s" if span.high < 1 else f"about {high} {unit}"
    return f"{low} to {high} {unit}" if span.low >= 0.95 * size else f"{duration(span.low)} to {high} {unit}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: with lines on a terminal, else as Markdown."""
    rows = [[printable(cell, lines=False) for cell in row] for row in rows]
    stream = stdout.stream()
    if stream is None or not stream.isatty():
        for cells in (header, ["---"] * len(header), *rows):
            result("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

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
    """Show a spinner on a terminal, else print a line, while something takes a few seconds."""
    if quiet or not leads():
        yield
    elif errors.is_terminal:
        with errors.status(escape(printable(text, lines=False))):
            yield
    else:
        say(f"{text} ...")
        yield


def stdin_is_terminal() -> bool:
    """Whether standard input is a terminal, not a pipe or file."""
    return sys.stdin.isatty()
