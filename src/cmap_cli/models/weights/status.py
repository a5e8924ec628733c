"""What ``cmap download-weights`` reports without downloading anything: the list, the plan, the state of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cmap_cli.errors import CmapError
from cmap_cli.models.weights.cache import (
    file_path,
    is_cached,
    is_here,
    local_file,
    read_lock,
    recorded_problem,
)
from cmap_cli.models.weights.documents import (
    Artefact,
    ListedArtefact,
    PlanDocument,
    PlannedArtefact,
    VerifiedDocument,
    WeightsListDocument,
)
from cmap_cli.models.weights.manifest import read_manifest
from cmap_cli.models.weights.sources import address

FAILED = 1


def plan_download(artefacts: Sequence[Artefact], weights_dir: Path | None = None) -> PlanDocument:
    """What would be downloaded, from where, under which licence."""
    rows = []
    for artefact in artefacts:
        here = is_here(artefact) if artefact.installed else is_cached(artefact, weights_dir)
        rows.append(
            PlannedArtefact(
                name=artefact.name,
                here=here,
                licence=artefact.licence,
                addresses=[] if here else [address(source) for source in artefact.sources],
                restriction=artefact.restriction,
                bytes=0 if here else artefact.sources[0].size[1],
            )
        )
    return PlanDocument(artefacts=rows)


def list_weights(weights_dir: Path | None = None) -> WeightsListDocument:
    """All entries of the manifest, and whether their files are here."""
    rows = []
    for artefact in read_manifest().values():
        here = is_here(artefact, weights_dir)
        rows.append(
            ListedArtefact(
                name=artefact.name,
                kind=artefact.kind,
                bytes=artefact.sources[0].size,
                licence=artefact.licence + (" (restricted)" if artefact.restriction else ""),
                hash_published=artefact.hashed,
                state="not here" if not here else "bundled" if artefact.installed else "cached",
                path=str(file_path(artefact, weights_dir)) if here else None,
            )
        )
    return WeightsListDocument(artefacts=rows)


def verify_weights(
    weights_dir: Path | None = None, on_problem: Callable[[CmapError], None] | None = None
) -> VerifiedDocument:
    """Compute the hash of every file that is here; the document's exit code is 1 if anything has changed.

    Args:
        weights_dir: the cache; the user's by default.
        on_problem: called for each wrong file with the problem and a hint.
    """
    manifest, recorded = read_manifest(), read_lock(weights_dir).cached
    results: dict[str, str | None] = {}
    for artefact in manifest.values():
        if (artefact.installed and (is_here(artefact) or not artefact.extra)) or artefact.name in recorded:
            try:
                local_file(artefact, weights_dir)
                results[artefact.name] = None
            except CmapError as error:
                results[artefact.name] = error.message
                if on_problem:
                    on_problem(error)
    for name in sorted(set(recorded) - set(manifest)):
        results[name] = recorded_problem(name, weights_dir)
    return VerifiedDocument(exit_code=FAILED if any(results.values()) else 0, verified=results)
