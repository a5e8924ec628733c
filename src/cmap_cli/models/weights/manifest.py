"""weights.toml: every checkpoint and data set that cmap can use, with sources, hashes and licences."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from cmap_cli.choices import AUTO_MODEL
from cmap_cli.errors import CmapError, WeightsError, collecting, suggestion
from cmap_cli.models.formats import FORMATS
from cmap_cli.models.weights.documents import Artefact, DownloadSource, Entry, Kind, Scheme
from cmap_cli.runs.documents import UNDECODABLE

USED_AS_THEY_ARE = ("cmap", "text")
NEEDED_BY_KIND: dict[Kind, tuple[str, ...]] = {
    "consistency-model": ("shape", "range", "sigma", "classes"),
    "classifier": ("shape", "range", "classes", "labels"),
    "lpips-trunk": ("range",),
    "dataset": ("shape", "classes"),
}
LISTED: dict[Kind, str] = {"consistency-model": "cmap list models", "classifier": "cmap list classifiers"}
"""The commands that list the names of a kind."""
UNPUBLISHED = "unpublished"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEX_DIGITS = re.compile(r"[0-9a-f]{64}")
PACKAGE = Path(__file__).parents[2]
SENTENCES = (
    (r"Object contains unknown field `(.+?)`(?: - at `\$.*`)?", r"has the unknown key \1"),
    (r"Object missing required field `(.+?)`(?: - at `\$.*`)?", r"lacks \1"),
    (r"Invalid enum value '(.+?)' - at `\$\.(.+)`", r"has the unknown \2 \1"),
    (r"Expected `(.+?)`, got `(.+?)` - at `\$\.(.+)`", r"\3 has the wrong type, \2 instead of \1"),
    (r"Expected `object`, got `(.+?)`", r"is not a table but \1"),
    (r"(.+?) - at `\$\.(.+)`", r"\2 is wrong: \1"),
)
"""msgspec's message about a wrong table -> the end of the sentence that users read."""

T = TypeVar("T", bound=msgspec.Struct)


def manifest_path() -> Path:
    """CMAP_MANIFEST, else weights.toml: inside the package in a wheel, at the project's top in an editable install."""
    if environment := os.environ.get("CMAP_MANIFEST"):
        return Path(environment)
    inside = PACKAGE / "weights.toml"
    return inside if inside.exists() else PACKAGE.parents[1] / "weights.toml"


def read_manifest(path: Path | None = None) -> dict[str, Artefact]:
    """All artefacts by name.

    Raises:
        WeightsError: the file is missing or not TOML, or entries are wrong; its ``problems`` name all of them.
    """
    path = path or manifest_path()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"the manifest {path} cannot be read: {error}") from error
    artefacts, problems = {}, []
    for name, entry in document.items():
        try:
            artefacts[name] = parse_artefact(name, entry)
        except WeightsError as error:
            problems.append(WeightsError(f"{path}: [{name}] {error.message}"))
    problems += [WeightsError(f"{path}: {twice}") for twice in shared_files(artefacts.values())]
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise WeightsError(f"the manifest {path} has {len(problems)} mistakes", problems=problems)
    return artefacts


def shared_files(artefacts: Iterable[Artefact]) -> list[str]:
    """A sentence for each file name that two artefacts share."""
    files: dict[str, str] = {}
    return [
        f"[{artefact.name}] the file {source.file} is also that of {files[source.file]}"
        for artefact in artefacts
        for source in artefact.sources
        if files.setdefault(source.file, artefact.name) != artefact.name
    ]


def parse_artefact(name: str, entry: object) -> Artefact:
    """One table of the manifest, checked (WeightsError without the name)."""
    if not SAFE_NAME.fullmatch(name):
        raise WeightsError("is no name: letters, digits, dots, hyphens and underscores only")
    given = entry
    if isinstance(entry, dict) and isinstance(entry.get("sources"), list):
        given = entry | {"sources": [completed(source) for source in entry["sources"]]}
    parsed = converted(given, Entry)
    assert isinstance(given, dict)  # or it would not be an Entry
    if missing := [key for key in NEEDED_BY_KIND[parsed.kind] if key not in given]:
        raise WeightsError(f"lacks {missing[0]}, which a {parsed.kind} needs")
    if len(parsed.mean) != len(parsed.std):
        raise WeightsError("needs mean and std together")
    if not parsed.sources:
        raise WeightsError("has no sources")
    for source in parsed.sources:
        check_source(source)
    for digest in (*(each.sha256 for each in parsed.refused), parsed.contents_sha256):
        check_digest(digest)
    installed = [source for source in parsed.sources if source.installed]
    if installed and len(parsed.sources) > 1:
        raise WeightsError("is bundled and needs no other source")
    fields = {key: getattr(parsed, key) for key in parsed.__struct_fields__}
    artefact = Artefact(name=name, **fields)
    if installed and not artefact.hashed:
        raise WeightsError("is installed and needs its sha256")
    return artefact


def converted(given: object, record: type[T]) -> T:
    """A TOML table as a struct (WeightsError without the table's name)."""
    try:
        return msgspec.convert(given, record)
    except UNDECODABLE as error:
        for pattern, sentence in SENTENCES:
            if match := re.fullmatch(pattern, str(error)):
                raise WeightsError(match.expand(sentence).strip()) from error
        raise WeightsError(f"is wrong: {error}") from error


def completed(given: object) -> object:
    """A source's table with the file name that its address ends with, a range of sizes, and "" for no known hash."""
    if not isinstance(given, dict):
        return given
    source: dict[str, Any] = dict(given)
    if isinstance(source.get("url"), str):
        source.setdefault("file", re.split("[/:]", source["url"])[-1])
    if type(source.get("size")) is int:
        source["size"] = [source["size"], source["size"]]
    if source.get("sha256") == UNPUBLISHED:
        source["sha256"] = ""
    return source


def check_source(source: DownloadSource) -> None:
    """Refuse wrong values that the types do not exclude (WeightsError)."""
    check_digest(source.sha256)
    check_digest(source.layout_sha256)
    if source.scheme not in get_args(Scheme):
        raise WeightsError(f"has a source of an unknown kind, {source.url}")
    if source.scheme == "http" and not source.url.startswith("http://127.0.0.1:"):
        raise WeightsError(f"has a source that is not https, {source.url}")
    if source.format not in (*FORMATS, *USED_AS_THEY_ARE):
        raise WeightsError(f"has a source of the unknown format {source.format}")
    if not 0 < source.size[0] <= source.size[1]:
        raise WeightsError(f"has a source whose size is neither bytes nor [least, most], {list(source.size)}")
    if not SAFE_NAME.fullmatch(source.file):
        raise WeightsError(f"has a source whose file is no plain name, {source.file!r}")


def check_digest(digest: str) -> None:
    """Refuse a value that is not a SHA-256; it may be absent (WeightsError)."""
    if digest and not HEX_DIGITS.fullmatch(digest):
        raise WeightsError(f"has a SHA-256 that is not 64 lower-case hex digits, {digest!r}")


def find_artefact(name: str, kind: Kind) -> Artefact:
    """The entry of that name and kind (WeightsError with the nearest known name otherwise)."""
    manifest = read_manifest()
    if name in manifest and manifest[name].kind == kind:
        return manifest[name]
    known = [artefact.name for artefact in manifest.values() if artefact.kind == kind]
    raise WeightsError(f"no {kind.replace('-', ' ')} is called {name}", suggestion(name, known, LISTED.get(kind, "")))


def unknown_names(model: str, classifier: str | None) -> list[CmapError]:
    """An error for each name that must be in the manifest and is not; used before torch is loaded."""
    problems: list[CmapError] = []
    given: tuple[tuple[str | None, Kind], ...] = ((model, "consistency-model"), (classifier, "classifier"))
    for name, kind in given:
        if name not in (None, AUTO_MODEL) and not (set(name) & set("/\\:") or Path(name).exists()):
            with collecting(problems):
                find_artefact(name, kind)
    return problems
