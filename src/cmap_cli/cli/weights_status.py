"""What ``cmap download-weights`` says without fetching anything: the list, the plan, the state of what is here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cmap_cli.cli import console
from cmap_cli.errors import CmapError

if TYPE_CHECKING:
    from cmap_cli.models.weights.manifest import Artefact
    from cmap_cli.models.weights.obtain import Access

SCHEMA = "cmap.download-weights/1"
FAILED = 1


def is_cached(artefact: Artefact, weights_dir: Path | None) -> bool:
    """Whether a verified file of it is in the cache."""
    from cmap_cli.models.weights.cache import cached_file

    try:
        cached_file(artefact, weights_dir)
    except CmapError:
        return False
    return True


def show_plan(artefacts: list[Artefact], access: Access, *, json: bool) -> None:
    """What would be fetched, from where, under which licence."""
    from cmap_cli.models.weights.sources import address

    rows: list[dict[str, Any]] = []
    for artefact in artefacts:
        here = artefact.installed or is_cached(artefact, access.weights_dir)
        urls = [] if here else [address(source) for source in artefact.sources]
        rows.append({"name": artefact.name, "here": here, "licence": artefact.licence, "from": urls})
        rows[-1] |= {"restriction": artefact.restriction, "bytes": 0 if here else artefact.sources[0].size[1]}
    if json:
        console.result_json({"schema": SCHEMA, "dry_run": True, "artefacts": rows})
        return
    for row in rows:
        if row["here"]:
            console.result(f"{row['name']}: is here")
            continue
        console.result(f"{row['name']}: up to {megabytes(row['bytes'])}, {row['licence']}")
        for url in row["from"]:
            console.result(f"  {url}")


def show_list(weights_dir: Path | None, *, json: bool, quiet: bool) -> None:
    """Everything that the manifest has, and whether it is here."""
    from cmap_cli.models.weights.cache import cached_path, installed_path
    from cmap_cli.models.weights.manifest import read_manifest

    rows: list[dict[str, Any]] = []
    for artefact in read_manifest().values():
        if artefact.installed:
            state, path = "bundled", installed_path(artefact)[0]
        else:
            path = cached_path(artefact, weights_dir)
            state = "cached" if path.is_file() else "not here"
        rows.append(
            {
                "name": artefact.name,
                "kind": artefact.kind,
                "bytes": list(artefact.sources[0].size),
                "licence": artefact.licence + (" (restricted)" if artefact.restriction else ""),
                "hash_published": artefact.hashed,
                "state": state,
                "path": str(path) if state != "not here" else None,
            }
        )
    if json:
        console.result_json({"schema": SCHEMA, "artefacts": rows})
        return
    if quiet:
        for row in rows:
            console.result(row["name"])
        return
    table = [("NAME", "KIND", "SIZE", "LICENCE", "STATE", "PATH")]
    table += [(r["name"], r["kind"], about(*r["bytes"]), r["licence"], r["state"], r["path"] or "-") for r in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        console.result("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def verify_all(weights_dir: Path | None, *, json: bool, quiet: bool) -> None:
    """Hash everything that is here; exit code 1 if anything has changed."""
    from cmap_cli.models.weights.cache import local_file, read_lock, recorded_problem
    from cmap_cli.models.weights.manifest import read_manifest

    manifest = read_manifest()
    recorded = read_lock(weights_dir).cached
    here = [a for a in manifest.values() if a.installed or a.name in recorded]
    results: dict[str, str | None] = {}
    for artefact in here:
        try:
            local_file(artefact, weights_dir)
            results[artefact.name] = None
        except CmapError as error:
            results[artefact.name] = error.message
            console.fail(error)
    for name in sorted(set(recorded) - set(manifest)):
        results[name] = recorded_problem(name, weights_dir)
    wrong = [name for name, problem in results.items() if problem]
    if json:
        console.result_json({"schema": SCHEMA, "exit_code": FAILED if wrong else 0, "verified": results})
    else:
        for name, problem in results.items():
            if not quiet or problem:
                console.result(f"{name}: {'WRONG' if problem else 'as it should be'}")
    if wrong:
        raise typer.Exit(FAILED)


def about(least: int, most: int) -> str:
    """A size that is known exactly or within bounds."""
    return megabytes(most) if least == most else f"≤ {megabytes(most)}"


def megabytes(count: int) -> str:
    """A size as a person says it."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count >= 10**5 else f"{count / 1000:.1f} kB"
