"""Options of commands that measure on a data set, ``cmap benchmark`` and ``cmap certify``: images, folder, shard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.choices import Split
from cmap_cli.cli import completion
from cmap_cli.cli.command import output_folder
from cmap_cli.cli.options import INPUT_OUTPUT
from cmap_cli.errors import UsageError

if TYPE_CHECKING:
    from cmap_cli.runs.shard import Shard

DatasetName = Annotated[
    str,
    typer.Option(
        help="cifar10, imagenet100:FOLDER, a folder of class folders, a CSV of file,label, .npz, .safetensors.",
        metavar="NAME",
        autocompletion=completion.datasets,
        rich_help_panel=INPUT_OUTPUT,
    ),
]
SplitName = Annotated[
    Split,
    typer.Option(
        help="Part of cifar10: subset is the paper's 500 test images, which come with cmap.",
        rich_help_panel=INPUT_OUTPUT,
    ),
]
FirstImages = Annotated[
    int | None,
    typer.Option(
        "--n",
        min=1,
        metavar="N",
        help="How many images: the first n, of a folder n at random (always the same).",
        show_default="8, or all if there are fewer",
        rich_help_panel=INPUT_OUTPUT,
    ),
]
ReportFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder to write to.",
        metavar="DIR",
        parser=output_folder,
        show_default="one of the user's cache",
        rich_help_panel=INPUT_OUTPUT,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with the columns file and label, for images in folders.",
        metavar="FILE",
        show_default=False,
        rich_help_panel=INPUT_OUTPUT,
    ),
]


def check_shard(shard: str | None, overwrite: bool, out: Path | None, *, judged: bool) -> Shard:
    """The shard of this process (UsageError where --shard does not go with the other options)."""
    from cmap_cli.runs.shard import resolve_shard

    own = resolve_shard(shard, overwrite)
    if shard is not None and judged:
        raise UsageError(
            "--fail-under and the other conditions are for the whole run, not for a shard",
            "cmap merge DIR --fail-under",
        )
    if shard is not None and out is None:
        raise UsageError("--shard needs --out, for cmap merge to find the records", "--out DIR")
    return own
