"""How ``cmap download-weights`` shows the list, the plan and the state of the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cmap_cli.cli import console

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact


def show_status(weights_dir: Path | None, *, check_manifest: bool, verify: bool, json: bool, quiet: bool) -> None:
    """Do what --check-manifest, --verify or --list asks for."""
    if check_manifest:
        show_check(json=json)
    elif verify:
        show_verification(weights_dir, json=json, quiet=quiet)
    else:
        show_list(weights_dir, json=json, quiet=quiet)


def show_check(*, json: bool) -> None:
    """Print that the manifest has no mistakes; if it has some, reading it raises an error with all of them."""
    from cmap_cli.models.weights.documents import ManifestDocument
    from cmap_cli.models.weights.manifest import manifest_path, read_manifest

    count = len(read_manifest())
    if json:
        console.result_json(ManifestDocument(manifest=str(manifest_path()), artefacts=count))
    else:
        console.result(f"{manifest_path()}: {count} artefacts, no mistakes")


def show_download_plan(artefacts: Sequence[Artefact], weights_dir: Path | None, *, json: bool) -> None:
    """Print what would be downloaded, from where, under which licence."""
    from cmap_cli.models.weights.status import plan_download

    plan = plan_download(artefacts, weights_dir)
    if json:
        console.result_json(plan)
        return
    for row in plan.artefacts:
        if row.here:
            console.result(f"{row.name}: is here")
            continue
        console.result(f"{row.name}: up to {megabytes(row.bytes)}, {row.licence}")
        for url in row.addresses:
            console.result(f"  {url}")


def show_list(weights_dir: Path | None, *, json: bool, quiet: bool) -> None:
    """Print all entries of the manifest, and whether their files are here."""
    from cmap_cli.models.weights.status import list_weights

    listed = list_weights(weights_dir)
    if json:
        console.result_json(listed)
        return
    if quiet:
        for row in listed.artefacts:
            console.result(row.name)
        return
    rows = [(r.name, r.kind, about(*r.bytes), r.licence, r.state) for r in listed.artefacts]
    console.table(("name", "kind", "size", "licence", "state"), rows)


def show_verification(weights_dir: Path | None, *, json: bool, quiet: bool) -> None:
    """Compute the hash of every file that is here; exit code 1 if anything has changed."""
    from cmap_cli.models.weights.status import verify_weights

    found = verify_weights(weights_dir, console.fail)
    if json:
        console.result_json(found)
    else:
        for name, problem in found.verified.items():
            if not quiet or problem:
                console.result(f"{name}: {'WRONG' if problem else 'as it should be'}")
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def about(least: int, most: int) -> str:
    """A size that is known exactly or within bounds."""
    return megabytes(most) if least == most else f"≤ {megabytes(most)}"


def megabytes(count: int) -> str:
    """A size in words."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count >= 10**5 else f"{count / 1000:.1f} kB"
