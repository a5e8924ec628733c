"""weights.toml: every checkpoint and data set that cmap can use, where it is, which bytes, which licence."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cmap_cli.errors import WeightsError

Kind = Literal["consistency-model", "classifier", "lpips-trunk", "dataset"]
Format = Literal[
    "cmap",  # our own safetensors of a consistency model
    "flax-msgpack",  # OpenAI's JAX checkpoints
    "score-sde",  # their conversions to PyTorch
    "openai-adm",  # OpenAI's ADM U-Net, a state dict
    "diffusers",  # the same network as safetensors or state dict of diffusers' UNet2DModel
    "hf-repository",  # a repository of Hugging Face: a diffusers consistency model or a transformers classifier
    "state-dict",  # a PyTorch state dict of a classifier
    "safetensors",  # the same as safetensors
    "torchvision-features",  # a torchvision classifier whose `features` are a trunk of LPIPS
    "cifar10-binary",
    "cifar10-tfjs",
    "text",
]
SCHEMES = ("https", "http", "bundled", "package", "drive", "hf", "npm", "manual")
NEEDED_BY_KIND: dict[str, tuple[str, ...]] = {
    "consistency-model": ("shape", "range", "sigma", "classes"),
    "classifier": ("shape", "range", "classes", "labels"),
    "lpips-trunk": ("range",),
    "dataset": ("shape", "classes"),
}
UNPUBLISHED = "unpublished"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
HEX_DIGITS = re.compile(r"[0-9a-f]{64}")
PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Source:
    """One place where an artefact can be had.

    Attributes:
        url: ``https://…``; ``bundled:path`` below the package's assets; ``package:import_name/path`` in another
            installed package; ``drive:FILE_ID`` of Google Drive; ``hf:org/repo@revision/path``;
            ``npm:package@version``; ``manual:https://…``, a page for a person.
        format: what reads the file.
        size: smallest and largest plausible number of bytes, inclusive.
        sha256: of the file, lower-case hex; its known beginning for torchvision's; "" when none is published.
        file: the file's name in a folder or mirror; unique in the manifest.
        layout_sha256: fingerprint of tensor names and shapes (:mod:`cmap_cli.models.formats.layout`), "" if unknown.
    """

    url: str
    format: Format
    size: tuple[int, int]
    sha256: str
    file: str
    layout_sha256: str = ""

    @property
    def scheme(self) -> str:
        """What comes before the first colon."""
        return self.url.partition(":")[0]

    @property
    def rest(self) -> str:
        """What comes after the first colon."""
        return self.url.partition(":")[2]

    @property
    def installed(self) -> bool:
        """Whether the file comes with this package or with another one."""
        return self.scheme in {"bundled", "package"}


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is known to be wrong, by its SHA-256, and why."""

    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class Artefact:
    """One entry of the manifest.

    Attributes:
        name: of the entry, and of its file in the cache.
        kind: what it is for.
        architecture: which network (or trunk, or data set) the file holds.
        licence: SPDX identifier, or the licence in words.
        page: where the facts of the entry were taken from.
        sources: in order of preference.
        restriction: what the licence or model card forbids, shown and to be accepted before a download; "" if nothing.
        shape: (C, H, W) of the images.
        range: lowest and highest pixel value that the network itself takes.
        sigma: (t_min, t_max) of a consistency model.
        classes: how many classes a classifier or data set has, or a consistency model is conditioned on (0: none).
        labels: which list of class names, "cifar10" or "imagenet1k".
        mean: subtracted from images in [0, 1] before the network; () where the network does it or nothing is done.
        std: divided by after that.
        contents_sha256: of a data set's decoded arrays, one after the other; holds for every source.
        refused: files that must never be taken for it.
        typed: what users type, where it is not the name: ``torchvision:NAME``; never in the manifest.
    """

    name: str
    kind: Kind
    architecture: str
    licence: str
    page: str
    sources: tuple[Source, ...]
    restriction: str = ""
    shape: tuple[int, ...] = ()
    range: tuple[float, ...] = ()
    sigma: tuple[float, ...] = ()
    classes: int = 0
    labels: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    contents_sha256: str = ""
    refused: tuple[Refused, ...] = ()
    typed: str = ""

    @property
    def command(self) -> str:
        """What fetches it."""
        return f"cmap download-weights {self.typed or self.name}"

    @property
    def installed(self) -> bool:
        """Whether it comes with this package or with another one; nothing to download then."""
        return self.sources[0].installed

    @property
    def hashed(self) -> bool:
        """Whether what is right is known beforehand for every source."""
        return bool(self.contents_sha256) or all(source.sha256 for source in self.sources)


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
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"the manifest {path} cannot be read: {error}") from error
    artefacts, problems = {}, []
    for name, entry in document.items():
        try:
            artefacts[name] = parse_artefact(name, entry)
        except WeightsError as error:
            problems.append(WeightsError(f"{path}: [{name}] {error.message}"))
    files: dict[str, str] = {}
    for artefact in artefacts.values():
        for source in artefact.sources:
            if files.setdefault(source.file, artefact.name) != artefact.name:
                other = files[source.file]
                problems.append(
                    WeightsError(f"{path}: [{artefact.name}] the file {source.file} is also that of {other}")
                )
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise WeightsError(f"the manifest {path} has {len(problems)} mistakes", problems=problems)
    return artefacts


def parse_artefact(name: str, entry: object) -> Artefact:
    """One table of the manifest, checked (WeightsError without the name)."""
    if not SAFE_NAME.fullmatch(name):
        raise WeightsError("is no name: letters, digits, dots, hyphens and underscores only")
    fields = checked_fields(Artefact, entry, absent=("name", "typed"))
    kind = fields["kind"]
    if kind not in get_args(Kind):
        raise WeightsError(f"has the unknown kind {kind}")
    if missing := [key for key in NEEDED_BY_KIND[kind] if key not in fields]:
        raise WeightsError(f"lacks {missing[0]}, which a {kind} needs")
    if len(fields.get("mean", ())) != len(fields.get("std", ())):
        raise WeightsError("needs mean and std together")
    if not fields["sources"]:
        raise WeightsError("has no sources")
    sources = tuple(parse_source(source) for source in fields.pop("sources"))
    refused = tuple(Refused(**checked_fields(Refused, each)) for each in fields.pop("refused", ()))
    for digest in (*(each.sha256 for each in refused), fields.get("contents_sha256", "")):
        check_digest(digest)
    if any(source.installed for source in sources) and len(sources) > 1:
        raise WeightsError("is bundled and needs no other source")
    artefact = Artefact(name=name, sources=sources, refused=refused, **fields)
    if not artefact.hashed and all(source.installed for source in sources):
        raise WeightsError("is installed and needs its sha256")
    return artefact


def parse_source(entry: object) -> Source:
    """One source of an entry, checked (WeightsError)."""
    given = dict(entry) if isinstance(entry, dict) else entry
    if isinstance(given, dict) and isinstance(given.get("url"), str):
        given.setdefault("file", re.split("[/:]", given["url"])[-1])
        if isinstance(given.get("size"), int):
            given["size"] = [given["size"], given["size"]]
    fields = checked_fields(Source, given)
    source = Source(**{**fields, "sha256": "" if fields["sha256"] == UNPUBLISHED else fields["sha256"]})
    check_digest(source.sha256)
    check_digest(source.layout_sha256)
    if source.scheme not in SCHEMES:
        raise WeightsError(f"has a source of an unknown kind, {source.url}")
    if source.scheme == "http" and not source.url.startswith("http://127.0.0.1:"):
        raise WeightsError(f"has a source that is not https, {source.url}")
    if source.format not in get_args(Format):
        raise WeightsError(f"has a source of the unknown format {source.format}")
    if len(source.size) != 2 or not 0 < source.size[0] <= source.size[1]:
        raise WeightsError(f"has a source whose size is neither bytes nor [least, most], {list(source.size)}")
    if not SAFE_NAME.fullmatch(source.file):
        raise WeightsError(f"has a source whose file is no plain name, {source.file!r}")
    return source


def check_digest(digest: str) -> None:
    """Refuse what is neither a SHA-256 nor absent (WeightsError)."""
    if digest and not HEX_DIGITS.fullmatch(digest):
        raise WeightsError(f"has a SHA-256 that is not 64 lower-case hex digits, {digest!r}")


def checked_fields(record: type, entry: object, absent: Sequence[str] = ()) -> dict[str, Any]:
    """A TOML table as keyword arguments of a dataclass: no unknown key, none missing, each of its type."""
    if not isinstance(entry, Mapping):
        raise WeightsError("is not a table")
    fields = {field.name: field for field in dataclasses.fields(record) if field.name not in absent}
    if unknown := sorted(set(entry) - set(fields)):
        raise WeightsError(f"has the unknown key {unknown[0]}")
    missing = [key for key, field in fields.items() if key not in entry and field.default is dataclasses.MISSING]
    if missing:
        raise WeightsError(f"lacks {missing[0]}")
    return {key: checked_value(key, value, str(fields[key].type)) for key, value in entry.items()}


def checked_value(key: str, value: object, annotation: str) -> object:
    """A TOML value as the annotated type of its field (WeightsError if it has another)."""
    if annotation.startswith("tuple"):
        numbers = {"tuple[int, int]": (int,), "tuple[int, ...]": (int,), "tuple[float, ...]": (int, float)}
        inside = numbers.get(annotation, (dict,))
        if not isinstance(value, list) or any(type(each) not in inside for each in value):
            raise WeightsError(f"{key} has the wrong type, {value!r}")
        return tuple(value)
    if type(value) is not (int if annotation == "int" else str):
        raise WeightsError(f"{key} has the wrong type, {value!r}")
    return value


def find_artefact(name: str, kind: Kind) -> Artefact:
    """The entry of that name and kind (WeightsError with the known names otherwise)."""
    manifest = read_manifest()
    if name in manifest and manifest[name].kind == kind:
        return manifest[name]
    known = ", ".join(sorted(a.name for a in manifest.values() if a.kind == kind))
    raise WeightsError(f"no {kind} is called {name}", f"known names: {known}")
