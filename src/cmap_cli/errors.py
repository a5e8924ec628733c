"""Every error a user can cause: one sentence, a hint of what to type, an exit code.

Exit codes of the command line: 0 done, 1 failed or a threshold missed, 2 usage, 3 partial, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence


class CmapError(Exception):
    """A failure that is explained in one sentence; never a bug of ours.

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
    """No source of an artefact has it, or what came is not what it should be."""


class SettingsMismatchError(UsageError):
    """The output folder holds the results of a run with other settings."""


class ImageError(CmapError):
    """One image that cannot be read or written; the others go on (exit code 3 at the end)."""

    exit_code = 3


class OutOfSpaceError(CmapError):
    """The disk is full or a quota is reached: no further image can be written."""
