"""The command ``cmap``: its list of commands, and how a failure becomes a message and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cmap_cli import __version__
from cmap_cli.cli import completion, console, stdout
from cmap_cli.cli.attack import attack
from cmap_cli.cli.benchmark import benchmark
from cmap_cli.cli.certify import certify
from cmap_cli.cli.command import Command
from cmap_cli.cli.compare import compare
from cmap_cli.cli.download_weights import download_weights
from cmap_cli.cli.info import info
from cmap_cli.cli.listing import list_names
from cmap_cli.cli.merge import merge
from cmap_cli.cli.purify import purify
from cmap_cli.cli.train import train
from cmap_cli.cli.usage import plain, unknown_command
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.files import writing_error

EPILOG = "Environment: CMAP_WEIGHTS_DIR, CMAP_DEVICE, CMAP_DEBUG=1 (tracebacks)."
INTERRUPTED = 130
SPINS = "1000"
"""How often a waiting OpenMP thread looks before it sleeps: docs/lab/performance.md."""

app = typer.Typer(
    name="cmap",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
for command in (purify, attack, benchmark, certify, compare, merge, train, download_weights, info):
    app.command(cls=Command)(stdout.keeping_stdout(command))
app.command("list", cls=Command)(stdout.keeping_stdout(list_names))


def print_version(value: bool) -> None:
    """Answer --version."""
    if value:
        console.result(f"cmap {__version__}")
        raise typer.Exit


@app.callback()
def cmap(
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    """Purify adversarial images with a consistency model, and measure honestly what it buys."""


def main() -> None:
    """Run the command line; every failure becomes one sentence, a hint and an exit code."""
    spin_briefly()
    sys.path.append(str(Path.cwd()))  # where a user's package.module:factory is; last, so that it shadows nothing
    with catching_signals() as received, completion.joining_words():
        try:
            code = app(standalone_mode=False)
            if code == INTERRUPTED:  # how Typer reports Ctrl-C
                raise KeyboardInterrupt
        except (KeyboardInterrupt, typer.Abort):
            code = leave_with(interruption(received))
        except Exception as error:
            # libraries in C can turn the interruption into an error of their own
            code = leave_with(interruption(received)) if received and not debugging() else leave_after(error)
    stdout.finish_stderr()
    sys.exit(code if isinstance(code, int) else 0)


def spin_briefly() -> None:
    """Let threads of GNU OpenMP, which PyTorch uses on Linux, wait for each other with little spinning.

    By default a thread spins for milliseconds. If other programs use the cores, it keeps the one that it waits for from
    running. This must be set before PyTorch is imported.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


def interruption(received: Sequence[int]) -> CmapError:
    """The error for a run that a signal has ended."""
    number = received[0] if received else signal.SIGINT
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    error = CmapError(f"interrupted by {name}; finished work is kept", "the same command continues from there")
    error.exit_code = 128 + number
    return error


def leave_after(error: Exception) -> int:
    """Print an error; returns the exit code. Exceptions that are not errors of cmap are raised again."""
    if isinstance(error, BrokenPipeError):
        stdout.discard_rest(sys.stdout)
        return 1
    if debugging():
        raise error
    if isinstance(error, CmapError):
        return leave_with(error)
    if isinstance(error, typer.TyperException):
        return leave_with(usage_error(error))
    if isinstance(error, OSError) and error.filename is None:  # of --help and --version, which Typer prints
        stdout.discard_rest(sys.stdout)
        return leave_with(writing_error(stdout.STDOUT, error))
    raise error


def usage_error(error: typer.TyperException) -> CmapError:
    """The error for a command line without a known command."""
    text = plain(error)
    if not text:  # the help page was printed
        return UsageError("no command is given", "cmap purify ./images --out ./clean")
    names = [each.name or (each.callback.__name__ if each.callback else "") for each in app.registered_commands]
    return unknown_command(text, [name.replace("_", "-") for name in names]) or UsageError(text, "cmap --help")


@contextmanager
def catching_signals() -> Iterator[list[int]]:
    """Treat SIGTERM and SIGHUP, which schedulers and closed terminals send, like Ctrl-C, unless they are ignored.

    A handler of SIGINT that is not Python's own is kept.

    Yields:
        A list that gets the number of the signal when one arrives.
    """
    received: list[int] = []

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}  # Windows lacks SIGHUP
    caught = {n: handler for n, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    for number in caught:
        signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


def debugging() -> bool:
    """Whether the user wants tracebacks."""
    return os.environ.get("CMAP_DEBUG") == "1"


def leave_with(error: CmapError) -> int:
    """Print an error as text or as JSON; returns the exit code."""
    for each in error.problems or [error]:
        console.fail(each)
    if "--json" in sys.argv:
        from cmap_cli.cli.documents import ErrorDocument, Problem

        listed = tuple(Problem(error=each.message, hint=each.hint) for each in error.problems or [error])
        console.result_json(ErrorDocument(exit_code=error.exit_code, errors=listed))
    return error.exit_code
