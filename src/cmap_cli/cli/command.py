"""What all commands have in common: a short and a full help page, and all mistakes of a command line in one error."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from cmap_cli.cli.usage import problems_of
from cmap_cli.errors import UsageError, raise_all

DETAILS_OF = "Details of"
"""Beginning of the names of the panels that ``--help`` leaves out."""
FULL_HELP = "cmap_cli.full_help"
"""Key of a context's ``meta``: whether the help page shows everything."""


class Command(TyperCommand):
    """A command whose ``--help`` leaves out details that ``--help-all`` shows, and that names all mistakes at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments (UsageError: everything that is wrong with them)."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException:
            if ctx.resilient_parsing:
                raise
            raise_all(problems_of(self, ctx, given))
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help page."""
        for parameter in self.params:
            if str(getattr(parameter, "rich_help_panel", "")).startswith(DETAILS_OF):
                parameter.hidden = not ctx.meta.get(FULL_HELP)  # type: ignore[attr-defined]  # only options have panels
            if getattr(parameter, "is_flag", False):
                parameter.metavar = " "  # a flag takes no value, so none is named
        super().format_help(ctx, formatter)


def output_folder(text: str) -> Path:
    """The path of --out (UsageError for a file, and for an empty path, which would mean the working directory)."""
    if not text.strip():
        raise UsageError("--out is empty", "--out . writes into the working directory")
    path = Path(text)
    with suppress(OSError):  # of a path that cannot be made either
        if path.is_file():
            raise UsageError(f"--out {path} is a file", "Choose a folder, new or old")
    return path


def show_full_help(context: typer.Context, asked: bool) -> None:
    """Answer --help-all."""
    if asked and not context.resilient_parsing:
        context.meta[FULL_HELP] = True
        typer.echo(context.get_help())
        raise typer.Exit
