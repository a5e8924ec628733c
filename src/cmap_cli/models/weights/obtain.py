"""From a name to a verified safetensors file in the cache: download, verify, convert, record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors.torch import save_file

from cmap_cli.errors import CmapError, DownloadError, OutOfSpaceError, WeightsError
from cmap_cli.models.formats.layout import Converted
from cmap_cli.models.weights.cache import (
    CONVERTER_VERSION,
    cache_folder,
    cached_file,
    cached_path,
    installed_file,
    read_lock,
    record_in_lock,
    sha256,
    verify,
)
from cmap_cli.models.weights.convert import convert
from cmap_cli.models.weights.fetch import MissingFileError, OnBytes, Patience, disk_error, fetch
from cmap_cli.models.weights.manifest import Artefact, Source
from cmap_cli.models.weights.sources import fetch_source, hugging_face

MODEL_FORMAT = "cmap-consistency-model/1"
WEIGHTS_FORMAT = "cmap-weights/1"
PARTIAL = ".partial"
SMALL_FILE = (1, 16 << 20)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Access:
    """How files may be had.

    Attributes:
        weights_dir: the cache; the user's by default.
        from_dir: take files from this folder, open no connection.
        mirror: take every file from below this address instead of its own.
        offline: open no connection.
        require_hash: refuse artefacts for which no hash is published.
        patience: with servers.
    """

    weights_dir: Path | None = None
    from_dir: Path | None = None
    mirror: str = ""
    offline: bool = False
    require_hash: bool = False
    patience: Patience = field(default_factory=Patience)


def obtain(artefact: Artefact, access: Access, on_bytes: OnBytes, say: Say) -> Path:
    """The verified file of an artefact; downloaded, verified and converted if it is not here.

    Args:
        artefact: the entry of the manifest.
        access: how.
        on_bytes: told how many bytes of the download are there.
        say: told what the user should know.

    Raises:
        DownloadError: no source has it, or what came is not what the manifest means; the cache is as it was.
        WeightsError: the options forbid to look for it, or the folder given does not have it.
        OutOfSpaceError: the disk is full.
    """
    if artefact.installed:
        return installed_file(artefact)
    if access.require_hash and not artefact.hashed:
        raise WeightsError(f"no hash of {artefact.name} is published, and --require-hash is set")
    folder = cache_folder(access.weights_dir)
    try:
        (folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{artefact.name}.lock")
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            say(f"another process is fetching {artefact.name}; waiting for it")
            held = lock.acquire()
        with held:
            with suppress(WeightsError):
                return cached_file(artefact, access.weights_dir)
            return bring(artefact, access, on_bytes, say)
    except OSError as error:
        raise disk_error(folder, error) from error


def bring(artefact: Artefact, access: Access, on_bytes: OnBytes, say: Say) -> Path:
    """Try the sources in order; the first whose file is right is converted into the cache."""
    if access.from_dir is not None:
        for source in artefact.sources:
            for path in (access.from_dir / artefact.name / source.file, access.from_dir / source.file):
                if path.exists():
                    return store(artefact, source, path, access, say)
        wanted = " or ".join(source.file for source in artefact.sources)
        raise WeightsError(f"{access.from_dir} holds no {wanted}, the file of {artefact.name}", by_hand(artefact))
    if access.offline:
        raise WeightsError(f"{artefact.name} is not in the cache, and --offline is set", by_hand(artefact))
    refusals: list[CmapError] = []
    for source in artefact.sources:
        if source.scheme == "manual":
            refusals.append(WeightsError(f"a person must fetch {source.file} from {source.rest}"))
            continue
        part = cache_folder(access.weights_dir) / PARTIAL / source.file
        try:
            download(source, part, access, on_bytes)
            try:
                made = store(artefact, source, part, access, say)
            except WeightsError:
                discard(part)
                raise
        except OutOfSpaceError:
            raise
        except CmapError as error:
            refusals.append(error)
            if source is not artefact.sources[-1]:
                say(f"{error.message}; trying the next source")
            continue
        discard(part)
        return made
    reasons = "; ".join(error.message for error in refusals)
    hint = next((error.hint for error in refusals if error.hint), "") or by_hand(artefact)
    raise DownloadError(f"{artefact.name} cannot be had: {reasons}", hint)


def by_hand(artefact: Artefact) -> str:
    """What to do without a connection."""
    return (
        f"fetch {artefact.sources[0].file} (see {artefact.page}) into a folder DIR, then: "
        f"{artefact.command} --from-dir DIR"
    )


def download(source: Source, part: Path, access: Access, on_bytes: OnBytes) -> None:
    """Bring the file of a source, or the folder of a repository, to ``part``."""
    if source.format == "hf-repository":
        download_repository(source, part, access, on_bytes)
    elif access.mirror:
        fetch(f"{access.mirror.rstrip('/')}/{source.file}", part, source.size, access.patience, on_bytes)
    else:
        fetch_source(source, part, access.patience, on_bytes)


def download_repository(source: Source, folder: Path, access: Access, on_bytes: OnBytes) -> None:
    """The files of a repository of Hugging Face that a consistency model or a classifier consists of."""
    repository, _, revision = source.rest.partition("@")

    def get(path: str, size: tuple[int, int] = SMALL_FILE) -> Path:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch(hugging_face(repository, revision, path), target, size, access.patience, on_bytes)
        return target

    try:
        get("unet/config.json")
    except MissingFileError:
        config = json.loads(get("config.json").read_text(encoding="utf-8"))
        if "architectures" in config:
            get("preprocessor_config.json")
            get("model.safetensors", source.size)
        else:
            get("diffusion_pytorch_model.safetensors", source.size)
        return
    with suppress(MissingFileError):
        get("scheduler/scheduler_config.json")
    get("unet/diffusion_pytorch_model.safetensors", source.size)


def store(artefact: Artefact, source: Source, path: Path, access: Access, say: Say) -> Path:
    """Verify a file, convert it into the cache, record it in the lock.

    Raises:
        WeightsError: the file is not what it should be.
    """
    digest = identify(artefact, source, path)
    if not source.sha256:
        before = read_lock(access.weights_dir).seen.get(source.url)
        if before not in (None, digest):
            raise WeightsError(
                f"the file of {artefact.name} is another one than before, SHA-256 {digest} and not {before}",
                f"if the new one is to be trusted, delete the line of {source.url} from "
                f"{read_lock(access.weights_dir).path}",
            )
    converted = convert(artefact, source, path)
    target = cached_path(artefact, access.weights_dir)
    temporary = target.parent / PARTIAL / f"{artefact.name}.converted"
    write(converted, artefact, source, digest, temporary)
    record_in_lock(access.weights_dir, artefact, source, digest, sha256(temporary))
    temporary.replace(target)
    if not source.sha256 and not artefact.contents_sha256:
        say(
            f"no hash of {artefact.name} is published: its size, tensors and values are as they should be, and its "
            f"SHA-256 {digest} is now in {read_lock(access.weights_dir).path.name}; another file will be refused"
        )
    return target


def identify(artefact: Artefact, source: Source, path: Path) -> str:
    """The SHA-256 of a file whose size and hash are right; of a repository's folder, that of its weights."""
    if path.is_dir():
        weights = sorted(path.rglob("*.safetensors"))
        if not weights:
            raise WeightsError(f"{path} holds no safetensors file")
        path = weights[0]
    return verify(path, source, "get the file anew: it is damaged, or another one", artefact.refused)


def write(converted: Converted, artefact: Artefact, source: Source, digest: str, path: Path) -> None:
    """Write converted tensors as safetensors with all that says where they come from."""
    metadata = {
        "format": MODEL_FORMAT if "sigma_max" in converted.description else WEIGHTS_FORMAT,
        "model": json.dumps(converted.description, sort_keys=True),
        "artefact": artefact.name,
        "licence": artefact.licence,
        "source": source.url,
        "source_sha256": digest,
        "converter": str(CONVERTER_VERSION),
    }
    save_file(converted.tensors, path, metadata)


def discard(path: Path) -> None:
    """Remove a download and its notes."""
    if path.is_dir():
        shutil.rmtree(path)
        return
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.json").unlink(missing_ok=True)
