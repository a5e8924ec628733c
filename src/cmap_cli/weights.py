"""The manifest of weights, weights.toml, and where each file of it lies on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open

from cmap_cli.errors import WeightsError

Kind = Literal["consistency-model", "classifier", "lpips-trunk"]
PACKAGE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Artefact:
    """One entry of the manifest; exactly one of ``bundled``, ``package`` and ``url`` says where the bytes are.

    Attributes:
        name: what users type.
        kind: what it is for.
        architecture: what reads it.
        sha256: of the file, lower-case hex.
        size: of the file, bytes.
        licence: SPDX identifier.
        page: where the facts of the entry were taken from.
        bundled: path below the package's ``assets`` folder.
        package: ``import_name/path``: a file inside another installed package.
        url: https address.
    """

    name: str
    kind: Kind
    architecture: str
    sha256: str
    size: int
    licence: str
    page: str
    bundled: str = ""
    package: str = ""
    url: str = ""


def manifest_path() -> Path:
    """weights.toml: inside the package in a wheel, at the top of the project in an editable install."""
    inside = PACKAGE / "weights.toml"
    return inside if inside.exists() else PACKAGE.parents[1] / "weights.toml"


def read_manifest(path: Path | None = None) -> dict[str, Artefact]:
    """All artefacts by name.

    Raises:
        WeightsError: the file is missing or not TOML, or an entry has an unknown key, lacks one, or has no source.
    """
    path = path or manifest_path()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"the manifest {path} cannot be read: {error}") from error
    return {name: parse_entry(path, name, entry) for name, entry in document.items()}


def parse_entry(path: Path, name: str, entry: object) -> Artefact:
    """One table of the manifest, checked."""
    if not isinstance(entry, dict):
        raise WeightsError(f"{path}: {name} is not a table")
    fields = {field.name: field for field in dataclasses.fields(Artefact) if field.name != "name"}
    if unknown := sorted(set(entry) - set(fields)):
        raise WeightsError(f"{path}: [{name}] has the unknown key {unknown[0]}")
    if missing := [k for k, f in fields.items() if k not in entry and f.default is dataclasses.MISSING]:
        raise WeightsError(f"{path}: [{name}] lacks {missing[0]}")
    if wrong := [k for k, v in entry.items() if type(v) is not (int if k == "size" else str)]:
        raise WeightsError(f"{path}: [{name}] {wrong[0]} has the wrong type, {entry[wrong[0]]!r}")
    artefact = Artefact(name=name, **entry)
    if artefact.kind not in get_args(Kind):
        raise WeightsError(f"{path}: [{name}] has the unknown kind {artefact.kind}")
    if sum(map(bool, (artefact.bundled, artefact.package, artefact.url))) != 1:
        raise WeightsError(f"{path}: [{name}] needs exactly one of bundled, package and url")
    return artefact


def find_artefact(name: str, kind: Kind) -> Artefact:
    """The entry of that name and kind (WeightsError with the known names otherwise)."""
    manifest = read_manifest()
    if name in manifest and manifest[name].kind == kind:
        return manifest[name]
    known = ", ".join(sorted(a.name for a in manifest.values() if a.kind == kind))
    raise WeightsError(f"no {kind} is called {name}", f"known names: {known}")


def cache_folder(weights_dir: Path | None = None) -> Path:
    """``--weights-dir``, else CMAP_WEIGHTS_DIR, else the user's cache."""
    if weights_dir is not None:
        return weights_dir
    environment = os.environ.get("CMAP_WEIGHTS_DIR")
    return Path(environment) if environment else user_cache_path("cmap", appauthor=False) / "weights"


def installed_file(artefact: Artefact) -> Path:
    """The verified file of an artefact that comes with this package or with another one.

    Raises:
        WeightsError: it is missing, or its bytes are not those of the manifest.
    """
    if artefact.bundled:
        path = PACKAGE / "assets" / artefact.bundled
        hint = "reinstall cmap-cli"
    else:
        package, _, inside = artefact.package.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise WeightsError(
                f"{artefact.name} lies in the package {package}, not installed", f"pip install {package}"
            )
        path = Path(spec.origin).parent / inside
        hint = f"pip install --force-reinstall {package}"
    if not path.is_file():
        raise WeightsError(f"the file of {artefact.name} is missing, {path}", hint)
    verify(path, artefact, hint)
    return path


def verify(path: Path, artefact: Artefact, hint: str) -> None:
    """Refuse a file whose size or SHA-256 is not the manifest's (WeightsError)."""
    size = path.stat().st_size
    if size != artefact.size:
        raise WeightsError(f"{path} has {size} bytes, {artefact.name} has {artefact.size}", hint)
    found = sha256(path)
    if found != artefact.sha256:
        raise WeightsError(f"{path} has SHA-256 {found}, {artefact.name} has {artefact.sha256}", hint)


def sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def trunk_path(artefact: Artefact, weights_dir: Path | None) -> Path:
    """Where the converted trunk of an LPIPS artefact is kept."""
    return cache_folder(weights_dir) / f"{artefact.name}.safetensors"


def cached_trunk(artefact: Artefact, weights_dir: Path | None = None) -> Path:
    """The converted trunk, made from the very file that the manifest names.

    Raises:
        WeightsError: it has not been downloaded, or was made from another file.
    """
    path = trunk_path(artefact, weights_dir)
    hint = f"cmap download-weights {artefact.name}"
    if not path.is_file():
        raise WeightsError(f"the weights {artefact.name} are not in {path.parent}", hint)
    try:
        with safe_open(path, "pt") as file:
            source = (file.metadata() or {}).get("source_sha256")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint) from error
    if source != artefact.sha256:
        raise WeightsError(f"{path} was made from a file with SHA-256 {source}, not {artefact.sha256}", hint)
    return path
