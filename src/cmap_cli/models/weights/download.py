"""Download weights by name: the function behind ``cmap download-weights``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.choices import DEFAULT_CLASSIFIER, PHOTO_MODEL, SMALL_MODEL
from cmap_cli.errors import CmapError, UsageError, suggestion
from cmap_cli.files import sweep_temporaries
from cmap_cli.models.weights.cache import cache_folder, is_cached
from cmap_cli.models.weights.documents import Artefact
from cmap_cli.models.weights.libraries import LIBRARIES, artefact_of
from cmap_cli.models.weights.manifest import read_manifest
from cmap_cli.models.weights.obtain import FetchOptions, OnMessage, obtain

NEEDED_BY_DEFAULT = (SMALL_MODEL, PHOTO_MODEL, DEFAULT_CLASSIFIER)


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Progress of the download of an artefact.

    Attributes:
        name: of the artefact.
        done: bytes that were received.
        most: the largest plausible size of its file, bytes.
    """

    name: str
    done: int
    most: int


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """The result of a download.

    Attributes:
        paths: name -> verified file, for those that are here now.
        failures: name -> why it could not be downloaded.
    """

    paths: dict[str, Path]
    failures: dict[str, CmapError]


def download_weights(
    names: Sequence[str] = NEEDED_BY_DEFAULT,
    options: FetchOptions | None = None,
    *,
    confirm: Callable[[Sequence[Artefact]], bool] | None = None,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    on_message: OnMessage | None = None,
) -> DownloadResult:
    """Download, verify and convert weights that are not here yet, one after the other.

    Args:
        names: of the manifest, or ``torchvision:NAME``, ``timm:NAME``, ``hf:org/repo@revision``.
        options: where files may come from and are kept; by default their own addresses and the user's cache.
        confirm: asked whether the user accepts the terms of those to be downloaded whose licence restricts their use;
            without it such artefacts are refused.
        on_progress: called as bytes arrive.
        on_message: called with messages for the user, one sentence each.

    Returns:
        The files, and the failures of those that could not be downloaded; one failure does not stop the others.

    Raises:
        UsageError: a name is unknown, or the terms of a licence are not accepted; nothing was downloaded then.
    """
    options = options or FetchOptions()
    return download_artefacts(
        select_artefacts(names), options, confirm=confirm, on_progress=on_progress, on_message=on_message
    )


def download_artefacts(
    artefacts: Sequence[Artefact],
    options: FetchOptions,
    *,
    confirm: Callable[[Sequence[Artefact]], bool] | None = None,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    on_message: OnMessage | None = None,
) -> DownloadResult:
    """As :func:`download_weights`, for artefacts that are selected already."""
    missing = [each for each in artefacts if not each.installed and not is_cached(each, options.weights_dir)]
    restricted = [each for each in missing if each.restriction]
    if restricted and not (confirm and confirm(restricted)):
        raise UsageError(
            f"the terms of {', '.join(artefact.name for artefact in restricted)} are not accepted",
            "read them, then add --accept-licence",
        )
    sweep_temporaries(cache_folder(options.weights_dir))
    paths: dict[str, Path] = {}
    failures: dict[str, CmapError] = {}
    for artefact in artefacts:
        most = artefact.sources[0].size[1]

        def on_bytes(count: int, name: str = artefact.name, most: int = most) -> None:
            if on_progress:
                on_progress(DownloadProgress(name, count, most))

        try:
            paths[artefact.name] = obtain(artefact, options, on_bytes, on_message or (lambda text: None))
        except CmapError as error:
            failures[artefact.name] = error
    return DownloadResult(paths, failures)


def select_artefacts(names: Sequence[str]) -> list[Artefact]:
    """The artefacts of some names (UsageError with all wrong names at once)."""
    manifest = read_manifest()
    artefacts: list[Artefact] = []
    problems: list[CmapError] = []
    for name in names:
        if name in manifest:
            artefacts.append(manifest[name])
            continue
        if name.partition(":")[0] not in LIBRARIES:
            near = suggestion(name, read_manifest(), "cmap download-weights --list")
            problems.append(UsageError(f"no weights are called {name}", near))
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


def downloadable_artefacts(options: FetchOptions) -> list[Artefact]:
    """All artefacts of the manifest that can be downloaded automatically with these options."""
    fetchable = [a for a in read_manifest().values() if any(source.scheme != "manual" for source in a.sources)]
    return [artefact for artefact in fetchable if artefact.hashed or not options.require_hash]
