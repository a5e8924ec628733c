"""``cmap download-weights``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.cli import completion, console, options, problems
from cmap_cli.cli.command import DETAILS_OF
from cmap_cli.cli.weights_status import show_download_plan, show_status
from cmap_cli.errors import CmapError, raise_all

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact
    from cmap_cli.models.weights.download import DownloadProgress, DownloadResult

WHAT = "What to do"
SOURCES = "Where files come from"
SOURCES_DETAILS = f"{DETAILS_OF} the download"


def download_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=completion.weights,
            help="A name of --list, torchvision:NAME, timm:NAME or hf:org/repo@revision; without a name: what the "
            "default commands need.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Download everything that needs no consent to a licence.", rich_help_panel=WHAT),
    ] = False,
    list_them: Annotated[
        bool, typer.Option("--list", help="List names, kinds, sizes, licences and what is here.", rich_help_panel=WHAT)
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compute the hashes of all files that are here again, and compare them.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    check_manifest: Annotated[
        bool, typer.Option("--check-manifest", help="Look for mistakes in weights.toml.", rich_help_panel=WHAT)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Report what would be downloaded, and from where.", rich_help_panel=WHAT),
    ] = False,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Accept the licences of what is restricted.", rich_help_panel=WHAT),
    ] = False,
    from_dir: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Take files from here, DIR/FILE or DIR/NAME/FILE; open no connection.",
            show_default=False,
            rich_help_panel=SOURCES,
        ),
    ] = None,
    mirror: Annotated[
        str,
        typer.Option(
            envvar="CMAP_MIRROR",
            help="Take every file from URL/FILE instead of its own address.",
            metavar="URL",
            show_default=False,
            rich_help_panel=SOURCES,
        ),
    ] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection.", rich_help_panel=SOURCES)] = False,
    require_hash: Annotated[
        bool,
        typer.Option("--require-hash", help="Refuse files whose hash nobody has published.", rich_help_panel=SOURCES),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for the next byte.", rich_help_panel=SOURCES)
    ] = 30.0,
    attempts: Annotated[
        int, typer.Option(min=1, help="Give up after so many attempts that add no byte.", rich_help_panel=SOURCES)
    ] = 5,
    json: options.Json = False,
    quiet: options.Quiet = False,
    weights_dir: options.WeightsDir = None,
    help_all: options.HelpAll = False,
) -> None:
    """Download models, classifiers and data sets, verify them and keep them as safetensors.

    Examples:

      cmap download-weights --list

      cmap download-weights cifar10-cd-lpips --accept-licence

      cmap download-weights lpips-vgg --from-dir ~/Downloads
    """
    raise_all(problems.download_weights_problems(dict(locals())))
    if check_manifest or list_them or verify:
        show_status(weights_dir, check_manifest=check_manifest, verify=verify, json=json, quiet=quiet)
        return
    from cmap_cli.models.weights.download import (
        NEEDED_BY_DEFAULT,
        download_artefacts,
        downloadable_artefacts,
        select_artefacts,
    )
    from cmap_cli.models.weights.fetch import Patience
    from cmap_cli.models.weights.obtain import FetchOptions

    patience = Patience(timeout, attempts, min(1.0, timeout / 10))
    fetch_options = FetchOptions(weights_dir, from_dir, mirror, offline, require_hash, patience)
    asked = names or NEEDED_BY_DEFAULT
    artefacts = downloadable_artefacts(fetch_options) if everything else select_artefacts(asked)
    if dry_run:
        show_download_plan(artefacts, weights_dir, json=json)
        return
    with Bars(quiet=quiet or json) as bars:
        done = download_artefacts(
            artefacts,
            fetch_options,
            confirm=partial(confirm, accepted=accept_licence, interactive=not json and not quiet),
            on_progress=bars.show,
            on_message=(lambda text: None) if quiet else console.warn,
        )
    show_result(done, json=json, quiet=quiet, by_default=not names and not everything)


def confirm(restricted: Sequence[Artefact], *, accepted: bool, interactive: bool) -> bool:
    """Show restrictive licences. Unless they are accepted already, ask the user on a terminal."""
    for artefact in restricted:
        console.say(f"{artefact.name}: {artefact.licence}; {artefact.restriction} ({artefact.page})")
    return accepted or (interactive and sys.stdin.isatty() and typer.confirm("Accept?", err=True))


class Bars:
    """A progress bar for each artefact, one after the other."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.name = ""
        self.stack = ExitStack()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stack.close()

    def show(self, progress: DownloadProgress) -> None:
        """Move the bar of an artefact; the first call for another one ends the one before."""
        if progress.name != self.name:
            self.stack.close()
            self.name = progress.name
            from cmap_cli.cli.progress import reporting

            self.bar = self.stack.enter_context(reporting(progress.most >> 20, "MiB", quiet=self.quiet))
        self.bar.reach(progress.done >> 20)


def show_result(done: DownloadResult, *, json: bool, quiet: bool, by_default: bool) -> None:
    """Print the paths of the files; raise the failures."""
    failures = list(done.failures.values())
    if not json:
        for name, path in done.paths.items():
            console.result(str(path) if quiet else f"{name}: {path}")
    if by_default and not failures and not quiet and not json:
        console.say("these are all weights that the default commands need; --list shows the others")
    if json and not failures:
        from cmap_cli.models.weights.documents import DownloadedDocument

        console.result_json(DownloadedDocument(paths={name: str(path) for name, path in done.paths.items()}))
    if len(failures) == 1:
        raise failures[0]
    if failures:
        count = len(failures) + len(done.paths)
        raise CmapError(f"{len(failures)} of {count} could not be downloaded", problems=failures)
