"""What GitHub Actions understands: annotations on stderr, and the summary of a step."""

from __future__ import annotations

import os
from pathlib import Path


def on_github() -> bool:
    """Whether this process runs in GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(level: str, text: str) -> str:
    """A workflow command that shows a message on the page of the run, such as ``::error title=cmap::...``.

    Args:
        level: "error" or "warning".
        text: the message; line ends and per cent signs are escaped as GitHub asks.
    """
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{level} title=cmap::{escaped}"


def write_step_summary(markdown: str) -> bool:
    """Add Markdown to the summary page of the step; returns whether there is one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not (on_github() and path):
        return False
    from cmap_cli.files import append_text

    append_text(Path(path), markdown.rstrip("\n") + "\n\n")
    return True
