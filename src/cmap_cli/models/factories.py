"""``package.module:factory``: what a user's own function returns. The only place that runs a user's Python."""

from __future__ import annotations

import importlib
from typing import Any

from cmap_cli.errors import UsageError


def call_factory(name: str, wanted: str) -> Any:
    """Import and call ``package.module:factory`` without arguments.

    Args:
        name: the whole name.
        wanted: what it should return, for the message.

    Raises:
        UsageError: it cannot be imported or is no function; whatever the function raises is passed on.
    """
    module, _, function = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{name} cannot be imported as {wanted}: {error}", "give the name of one, or package.module:factory"
        ) from error
    if not callable(factory):
        raise UsageError(f"{name} is a {type(factory).__name__}, not a function that returns {wanted}")
    return factory()
