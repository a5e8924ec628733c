"""Standard output: only results are written to it; names of files are made safe for terminals."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TextIO, get_type_hints

from cmap_cli.files import writing_error

P = ParamSpec("P")

STDOUT = Path("standard output")
NAMES = "cmap-names"
"""Name under which :func:`as_bytes` is registered with Python."""

results: TextIO | None = None
"""Where results are printed inside :func:`own_stdout`; None for sys.stdout."""


def stream() -> TextIO | None:
    """The stream for results; None if stdout was closed before the process started."""
    return results or sys.stdout


def result(text: str) -> None:
    """Print a line of the result on stdout; on a terminal without control characters, which file names may contain.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        CmapError: it cannot be written, for example because the disk is full.
    """
    file = stream()
    if file is None:
        return
    try:
        print(printable(text) if file.isatty() else text, file=file, flush=True)
    except OSError as error:
        discard_rest(file)
        if isinstance(error, BrokenPipeError):
            raise
        raise writing_error(STDOUT, error) from error


def discard_rest(file: TextIO) -> None:
    """Discard what is left in a stream; else Python would try to write it again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def finish_stderr() -> None:
    """Flush stderr. If that fails, as on a full disk, keep the exit code, which Python would change to 120."""
    if sys.stderr is not None:  # as it is if the stream is closed
        try:
            sys.stderr.flush()
        except (OSError, ValueError):
            discard_rest(sys.stderr)


def printable(text: str, *, lines: bool = True) -> str:
    """A text without control, format and surrogate characters: they become escapes such as ``\\x1b``.

    Args:
        text: what is to be shown.
        lines: keep line ends and tabs.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def as_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode characters that the encoding of stdout lacks: bytes of file names unchanged, others as escapes."""
    assert isinstance(error, UnicodeEncodeError)
    odd = error.object[error.start : error.end]
    try:
        return odd.encode("utf-8", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return odd.encode("ascii", "backslashreplace"), error.end


codecs.register_error(NAMES, as_bytes)


@contextmanager
def own_stdout() -> Iterator[None]:
    """Keep stdout for :func:`result`; what other code prints to stdout, also C libraries, goes to stderr."""
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
        how = NAMES if sys.stdout.errors == "strict" else sys.stdout.errors
        with os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=how) as results:
            os.dup2(2, 1)
            try:
                yield
            finally:
                sys.stdout.flush()
                os.dup2(kept, 1)
    finally:
        results = None


def keeping_stdout(command: Callable[P, None]) -> Callable[P, None]:
    """The command, run inside :func:`own_stdout`; its options stay the same.

    Its annotations are evaluated here, once: Typer does it six times for every command, which takes a third of the time
    of ``cmap --help``.
    """
    command.__annotations__ = get_type_hints(command, include_extras=True)

    @wraps(command)
    def kept(*arguments: P.args, **options: P.kwargs) -> None:
        with own_stdout():
            command(*arguments, **options)

    return kept
