"""``cmap download-weights``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.choices import DEFAULT_CLASSIFIER, DEFAULT_MODEL
from cmap_cli.cli import console, options
from cmap_cli.cli.weights_status import SCHEMA, is_cached, show_list, show_plan, verify_all
from cmap_cli.errors import CmapError, UsageError

if TYPE_CHECKING:
    from cmap_cli.models.weights.manifest import Artefact
    from cmap_cli.models.weights.obtain import Access

NEEDED_BY_DEFAULT = (DEFAULT_MODEL, DEFAULT_CLASSIFIER)
WHAT = "What to do"
SOURCES = "Where files come from"


def download_weights(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Of --list, or torchvision:NAME, timm:NAME, hf:org/repo@revision; nothing: what the default "
            "commands need.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Everything that can be fetched without a person.", rich_help_panel=WHAT)
    ] = False,
    list_them: Annotated[
        bool, typer.Option("--list", help="List names, kinds, sizes, licences and what is here.", rich_help_panel=WHAT)
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash everything that is here again.", rich_help_panel=WHAT)
    ] = False,
    check_manifest: Annotated[
        bool, typer.Option("--check-manifest", help="Look for mistakes in weights.toml.", rich_help_panel=WHAT)
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Say what would be fetched, and from where.", rich_help_panel=WHAT),
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
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds without a byte.", rich_help_panel=SOURCES)] = 30.0,
    attempts: Annotated[int, typer.Option(min=1, help="In a row that bring nothing new.", rich_help_panel=SOURCES)] = 5,
    json: options.Json = False,
    quiet: options.Quiet = False,
    weights_dir: options.WeightsDir = None,
) -> None:
    """Fetch models, classifiers and data sets, verify them and keep them as safetensors.

    Examples:

      cmap download-weights --list

      cmap download-weights cifar10-cd-lpips --accept-licence

      cmap download-weights lpips-vgg --from-dir ~/Downloads
    """
    from cmap_cli.models.weights.manifest import manifest_path, read_manifest

    chosen = sum([everything, list_them, verify, check_manifest])
    if chosen > 1 or (names and chosen):
        raise UsageError("names, --all, --list, --verify and --check-manifest exclude each other")
    if check_manifest:
        found = read_manifest()
        if json:
            console.result_json({"schema": SCHEMA, "manifest": str(manifest_path()), "artefacts": len(found)})
        else:
            console.result(f"{manifest_path()}: {len(found)} artefacts, no mistakes")
        return
    if list_them:
        show_list(weights_dir, json=json, quiet=quiet)
        return
    if verify:
        verify_all(weights_dir, json=json, quiet=quiet)
        return
    from cmap_cli.models.weights.fetch import Patience
    from cmap_cli.models.weights.obtain import Access

    access = Access(
        weights_dir, from_dir, mirror, offline, require_hash, Patience(timeout, attempts, min(1.0, timeout / 10))
    )
    artefacts = select(names or [], everything=everything, access=access)
    if dry_run:
        show_plan(artefacts, access, json=json)
        return
    missing = [artefact for artefact in artefacts if not artefact.installed and not is_cached(artefact, weights_dir)]
    agree(missing, accepted=accept_licence, interactive=not (quiet or json))
    fetch_all(artefacts, access, json=json, quiet=quiet, tell_defaults=not names and not everything)


def select(names: list[str], *, everything: bool, access: Access) -> list[Artefact]:
    """The artefacts that are asked for (all unknown names at once as UsageError)."""
    from cmap_cli.models.weights.libraries import artefact_of
    from cmap_cli.models.weights.manifest import read_manifest

    manifest = read_manifest()
    if everything:
        fetchable = [a for a in manifest.values() if any(source.scheme != "manual" for source in a.sources)]
        return [a for a in fetchable if a.hashed or not access.require_hash]
    artefacts: list[Artefact] = []
    problems: list[CmapError] = []
    for name in names or NEEDED_BY_DEFAULT:
        if name in manifest:
            artefacts.append(manifest[name])
            continue
        library = name.partition(":")[0]
        if library not in {"torchvision", "timm", "hf"}:
            problems.append(UsageError(f"nothing is called {name}", "cmap download-weights --list"))
            continue
        try:
            artefacts.append(artefact_of(name, "classifier"))
        except CmapError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UsageError("several names are wrong", problems=problems)
    return artefacts


def agree(artefacts: list[Artefact], *, accepted: bool, interactive: bool) -> None:
    """Show restrictive licences and have them accepted (UsageError if they are not)."""
    restricted = [artefact for artefact in artefacts if artefact.restriction]
    for artefact in restricted:
        console.say(f"{artefact.name}: {artefact.licence}; {artefact.restriction} ({artefact.page})")
    if not restricted or accepted:
        return
    if not interactive or not sys.stdin.isatty() or not typer.confirm("Accept?", err=True):
        raise UsageError(
            f"the terms of {', '.join(artefact.name for artefact in restricted)} are not accepted",
            "read them, then add --accept-licence",
        )


def fetch_all(artefacts: list[Artefact], access: Access, *, json: bool, quiet: bool, tell_defaults: bool) -> None:
    """Bring the artefacts here one after the other; what fails does not stop the others."""
    from cmap_cli.models.weights.obtain import obtain

    paths: dict[str, str] = {}
    failures: list[CmapError] = []
    for artefact in artefacts:
        most = artefact.sources[0].size[1]
        with console.reporting(most >> 20, "MiB", quiet=quiet or json) as progress:

            def on_bytes(count: int, progress: console.Reporter = progress) -> None:
                progress.reach(count >> 20)

            def say(text: str) -> None:
                if not quiet:
                    console.warn(text)

            try:
                paths[artefact.name] = str(obtain(artefact, access, on_bytes, say))
            except CmapError as error:
                failures.append(error)
                continue
        if not json:
            console.result(paths[artefact.name] if quiet else f"{artefact.name}: {paths[artefact.name]}")
    if tell_defaults and not failures and not quiet and not json:
        console.say("that is all that the default commands need; --list shows what else there is")
    if json and not failures:
        console.result_json({"schema": SCHEMA, "paths": paths})
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise CmapError(f"{len(failures)} of {len(artefacts)} could not be had", problems=failures)
