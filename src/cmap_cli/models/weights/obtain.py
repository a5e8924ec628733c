"""From a name to a verified safetensors file in the cache: download, verify, convert, record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import save_file

from cmap_cli.errors import CmapError, DownloadError, OutOfSpaceError, UsageError, WeightsError
from cmap_cli.files import explaining_writes, make_folder, release_lock, take_lock, write_with
from cmap_cli.models.formats.layout import Converted
from cmap_cli.models.store import MODEL_FORMAT, WEIGHTS_FORMAT
from cmap_cli.models.weights.cache import (
    CONVERTER_VERSION,
    FOREVER,
    cache_folder,
    cached_file,
    cached_path,
    installed_file,
    lock_file,
    read_lock,
    record_in_lock,
    sha256,
    verify,
)
from cmap_cli.models.weights.convert import convert_download
from cmap_cli.models.weights.documents import Artefact, DownloadSource
from cmap_cli.models.weights.fetch import OnBytes, Patience, fetch
from cmap_cli.models.weights.repository import download_repository
from cmap_cli.models.weights.sources import fetch_source

PARTIAL = ".partial"

OnMessage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """Where files may come from, and where they are kept.

    Attributes:
        weights_dir: the cache; the user's by default.
        from_dir: take files from this folder, open no connection.
        mirror: take every file from below this address instead of its own.
        offline: open no connection.
        require_hash: refuse artefacts for which no hash is published.
        patience: how long to wait for servers.
    """

    weights_dir: Path | None = None
    from_dir: Path | None = None
    mirror: str = ""
    offline: bool = False
    require_hash: bool = False
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        """Refuse a mirror that is no web address (UsageError)."""
        if self.mirror and not self.mirror.startswith(("http://", "https://")):
            raise UsageError(f"--mirror {self.mirror} is not an address of http or https", "--mirror https://…")


def obtain(artefact: Artefact, options: FetchOptions, on_bytes: OnBytes, on_message: OnMessage) -> Path:
    """The verified file of an artefact; downloaded, verified and converted if it is not here.

    Args:
        artefact: the entry of the manifest.
        options: where it may come from.
        on_bytes: called with the number of received bytes.
        on_message: called with messages for the user.

    Raises:
        DownloadError: no source has it, or the downloaded file is not the one of the manifest; the cache is unchanged.
        WeightsError: the options forbid the download, or the given folder does not contain it.
        OutOfSpaceError: the disk is full.
    """
    if artefact.installed:
        return installed_file(artefact)
    if options.require_hash and not artefact.hashed:
        raise WeightsError(f"no hash of {artefact.name} is published, and --require-hash is set")
    folder, target = cache_folder(options.weights_dir), cached_path(artefact, options.weights_dir)
    make_folder(folder / PARTIAL)
    lock = take_lock(target)
    if lock is None:
        on_message(f"another process is downloading {artefact.name}; waiting for it")
        lock = take_lock(target, FOREVER)
    try:
        with suppress(WeightsError):
            return cached_file(artefact, options.weights_dir)
        with explaining_writes(folder):
            return fill_cache(artefact, options, on_bytes, on_message)
    finally:
        release_lock(lock)


def fill_cache(artefact: Artefact, options: FetchOptions, on_bytes: OnBytes, on_message: OnMessage) -> Path:
    """Convert the given file, or a downloaded one, into the cache."""
    if options.from_dir is not None:
        for source in artefact.sources:
            for path in (options.from_dir / artefact.name / source.file, options.from_dir / source.file):
                if path.exists():
                    return keep(artefact, source, path, options, on_message)
        wanted = artefact.sources[0].file  # one name, and the same as in the hint
        raise WeightsError(f"{options.from_dir} holds no {wanted}, the file of {artefact.name}", by_hand(artefact))
    if options.offline:
        raise WeightsError(f"{artefact.name} is not in the cache, and --offline is set", by_hand(artefact))
    return try_sources(artefact, options, on_bytes, on_message)


def try_sources(artefact: Artefact, options: FetchOptions, on_bytes: OnBytes, on_message: OnMessage) -> Path:
    """Try the sources in order; the first whose file is right is converted into the cache."""
    refusals: list[CmapError] = []
    sources = [source for source in artefact.sources if source.scheme != "manual"]
    for source in sources:
        part = cache_folder(options.weights_dir) / PARTIAL / source.file
        try:
            download(source, part, options, on_bytes)
            try:
                made = keep(artefact, source, part, options, on_message)
            except WeightsError:
                remove_download(part)
                raise
        except OutOfSpaceError:
            raise
        except CmapError as error:
            refusals.append(error)
            if source is not sources[-1]:
                on_message(f"{error.message}; trying the next source")
            continue
        remove_download(part)
        return made
    reasons = "; ".join(error.message for error in refusals) or "only a person can download it, in a browser"
    hint = next((error.hint for error in refusals if error.hint), "") or by_hand(artefact)
    raise DownloadError(f"{artefact.name}: {reasons}", hint)


def by_hand(artefact: Artefact) -> str:
    """The hint for a machine without a connection: which file to put where."""
    source = artefact.sources[0]
    address = source.rest if source.scheme == "manual" else source.url
    return f"save {address} as DIR/{source.file} (see {artefact.page}), then: {artefact.command} --from-dir DIR"


def download(source: DownloadSource, part: Path, options: FetchOptions, on_bytes: OnBytes) -> None:
    """Download the file of a source, or the folder of a repository, to ``part``."""
    if source.format == "hf-repository":
        download_repository(source, part, options.patience, on_bytes)
    elif options.mirror:
        fetch(f"{options.mirror.rstrip('/')}/{source.file}", part, source.size, options.patience, on_bytes)
    else:
        fetch_source(source, part, options.patience, on_bytes)


def keep(artefact: Artefact, source: DownloadSource, path: Path, options: FetchOptions, on_message: OnMessage) -> Path:
    """Verify a file, convert it into the cache, record it in the lock file.

    Raises:
        WeightsError: the file is not that of the manifest.
    """
    digest, record = identify(artefact, source, path), lock_file(options.weights_dir)
    if not source.sha256:
        before = read_lock(options.weights_dir).seen.get(source.url)
        if before not in (None, digest):
            raise WeightsError(
                f"the file of {artefact.name} is another one than before, SHA-256 {digest} and not {before}",
                f"if the new one is to be trusted, delete the line of {source.url} from {record}",
            )
    converted = convert_download(artefact, source, path)
    target = cached_path(artefact, options.weights_dir)

    def write(temporary: Path) -> None:
        save_file(converted.tensors, temporary, origin(converted, artefact, source, digest))
        record_in_lock(options.weights_dir, artefact, source, digest, sha256(temporary))

    write_with(target, write)
    if not source.sha256 and not artefact.contents_sha256:
        on_message(
            f"no hash of {artefact.name} is published: its size, tensors and values are as they should be, and its "
            f"SHA-256 {digest} is now in {record.name}; another file will be refused"
        )
    return target


def identify(artefact: Artefact, source: DownloadSource, path: Path) -> str:
    """The SHA-256 of a file whose size and hash are correct; for the folder of a repository, that of its weights."""
    if path.is_dir():
        weights = sorted(path.rglob("*.safetensors"))
        if not weights:
            raise WeightsError(f"{path} holds no safetensors file")
        path = weights[0]
    return verify(path, source, "download the file again: it is damaged, or another one", artefact.refused)


def origin(converted: Converted, artefact: Artefact, source: DownloadSource, digest: str) -> dict[str, str]:
    """The metadata of a converted file: its description and its source."""
    return {
        "format": MODEL_FORMAT if "sigma_max" in converted.description else WEIGHTS_FORMAT,
        "model": json.dumps(converted.description, sort_keys=True),
        "artefact": artefact.name,
        "licence": artefact.licence,
        "source": source.url,
        "source_sha256": digest,
        "converter": str(CONVERTER_VERSION),
    }


def remove_download(path: Path) -> None:
    """Remove a download and its notes."""
    if path.is_dir():
        shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.json").unlink(missing_ok=True)
