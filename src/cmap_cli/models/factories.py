"""``package.module:factory``: call a function of the user. Only this module runs Python code of users."""

from __future__ import annotations

import importlib
from typing import Any

from cmap_cli.errors import CmapError, UsageError

DEBUG = "CMAP_DEBUG=1 shows where it happened"
HINT = f"give the name of one, or package.module:factory; {DEBUG}"


def call_factory(name: str, wanted: str) -> Any:
    """Import and call ``package.module:factory`` without arguments.

    Args:
        name: the whole name.
        wanted: kind of object that it should return, for the message.

    Raises:
        UsageError: it cannot be imported or is no function, or it raises an exception or ends the program.
    """
    module, _, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        raise UsageError(f"{name} cannot be imported as {wanted}: {exception_text(error)}", HINT) from error
    if not callable(factory):
        raise UsageError(f"{name} is a {type(factory).__name__}, not a function that returns {wanted}")
    try:
        return factory()
    except CmapError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise UsageError(f"calling {name} raised {exception_text(error)}", DEBUG) from error


def exception_text(error: BaseException) -> str:
    """Class and first line of an exception, for a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
