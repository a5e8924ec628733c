"""``cmap download-weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmap_cli.cli import console, options


def download_weights(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="lpips-vgg, lpips-alex, lpips-squeeze.", show_default=False)
    ],
    from_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Take the files from this folder instead of the network.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    weights_dir: options.WeightsDir = None,
) -> None:
    """Fetch the trunks of LPIPS, check their hashes and keep them as safetensors.

    Everything else that purify needs comes with the package.

    Examples:

      cmap download-weights lpips-vgg

      cmap download-weights lpips-squeeze --from-dir ~/Downloads
    """
    from cmap_cli.weights import find_artefact

    artefacts = [find_artefact(name, "lpips-trunk") for name in names]
    from cmap_cli.download import obtain_trunk

    paths = {}
    for artefact in artefacts:
        with console.reporting(artefact.size >> 20, "MiB", quiet=quiet or json) as progress:

            def on_bytes(count: int, progress: console.Reporter = progress) -> None:
                progress.advance((count >> 20) - progress.done)

            paths[artefact.name] = str(obtain_trunk(artefact, weights_dir, from_dir, on_bytes))
        if not json:
            console.result(paths[artefact.name])
    if json:
        console.result_json({"schema": "cmap.download-weights/1", "paths": paths})
