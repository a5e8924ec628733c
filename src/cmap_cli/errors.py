"""Every error a user can cause: one sentence, a hint of what to type, an exit code.

Exit codes of the command line: 0 done, 1 failed or a threshold missed, 2 usage, 3 partial, 130 interrupted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

PROBLEMS_SHOWN = 20


class CmapError(Exception):
    """A failure that is explained in one sentence; never a bug in cmap.

    Args:
        message: what happened, with the offending value; no trailing full stop.
        hint: what to type or do next.
        problems: when several things are wrong at once, one error each.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", problems: Sequence[CmapError] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)


class UsageError(CmapError):
    """A bad option or value, or an input that is not there."""

    exit_code = 2


class WeightsError(UsageError):
    """A model, classifier or weight file that is missing, unknown or not what it should be."""


class DownloadError(CmapError):
    """No source of an artefact has it, or the downloaded file is not the expected one."""


class SettingsMismatchError(UsageError):
    """The output folder holds the results of a run with other settings."""


class ImageError(CmapError):
    """One image that cannot be read or written; the others are processed (exit code 3 at the end)."""

    exit_code = 3


class OutOfSpaceError(CmapError):
    """The disk is full or a quota is reached: no further image can be written."""


def raise_all(problems: Sequence[CmapError], what: str = "") -> None:
    """Raise one error for everything that is wrong; nothing without problems.

    Args:
        problems: found so far; those that stand for several are taken apart.
        what: what has the problems, a file or folder, for the message.

    Raises:
        UsageError: the one problem, or one error that lists up to 20 of them in ``problems``.
    """
    every = [each for problem in problems for each in problem.problems or [problem]]
    if len(every) == 1:
        raise every[0] if isinstance(every[0], UsageError) else UsageError(every[0].message, every[0].hint)
    if every:
        shown, rest = every[:PROBLEMS_SHOWN], len(every) - PROBLEMS_SHOWN
        if rest > 0:
            shown.append(UsageError(f"{what} has {rest:,} more problems" if what else f"{rest:,} more problems"))
        begin = f"{what} has {len(every):,} problems" if what else f"{len(every):,} problems"
        raise UsageError(f"{begin}: {'; '.join(each.message for each in shown)}", problems=shown)


def suggestion(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint for a name that is not known: the nearest one, else what is given for that, else all of them."""
    names = list(known)
    near = get_close_matches(name.lower(), [each.lower() for each in names], n=1)
    if near:
        return f"did you mean {next(each for each in names if each.lower() == near[0])}?"
    return otherwise or f"one of {', '.join(names)}"


def pip_install(extra: str) -> str:
    """The command that installs what an extra needs; it also suits an installation from a clone.

    Args:
        extra: of cmap-cli.
    """
    from importlib import metadata  # slow to import

    try:
        every = metadata.requires("cmap-cli") or []
    except metadata.PackageNotFoundError:
        every = []
    wanted = [each.partition(";")[0].strip() for each in every if re.search(rf"extra == ['\"]{extra}['\"]", each)]
    return f"pip install {' '.join(map(shlex.quote, wanted or [f'cmap-cli[{extra}]']))}"


@contextmanager
def collecting(problems: list[CmapError]) -> Iterator[None]:
    """Add an error of the block to ``problems`` instead of raising it; :func:`raise_all` raises them together."""
    try:
        yield
    except CmapError as error:
        problems.append(error)
