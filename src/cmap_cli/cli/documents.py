"""What commands print with ``--json`` that no other package has a type for."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cmap_cli.benchmarking.compare import ComparedRow
from cmap_cli.purify.diagnosis import SelfTest
from cmap_cli.purify.documents import FailedImage
from cmap_cli.purify.summary import Summary
from cmap_cli.runs.documents import Document


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One error and what to type next."""

    error: str
    hint: str


class ErrorDocument(Document, frozen=True, kw_only=True):
    """What every command prints with ``--json`` if it fails before it has a result."""

    schema: str = "cmap.error/1"
    exit_code: int
    errors: tuple[Problem, ...]


class ListedName(msgspec.Struct, frozen=True, kw_only=True):
    """A name that an option takes."""

    name: str
    about: str


class ListDocument(Document, frozen=True, kw_only=True):
    """What ``cmap list --json`` prints: the one list that was asked for."""

    schema: str = "cmap.list/1"
    models: tuple[ListedName, ...] | UnsetType = UNSET
    classifiers: tuple[ListedName, ...] | UnsetType = UNSET
    attacks: tuple[ListedName, ...] | UnsetType = UNSET
    datasets: tuple[ListedName, ...] | UnsetType = UNSET


class InfoDocument(Document, frozen=True, kw_only=True):
    """What ``cmap info --json`` prints; fields as in :class:`~cmap_cli.purify.diagnosis.Diagnosis`."""

    schema: str = "cmap.info/1"
    exit_code: int
    version: str
    python: str
    packages: dict[str, str | None]
    extras: dict[str, str | None]
    device: str
    precision: str
    threads: int
    memory_gib: float
    cache: str
    weights: dict[str, str]
    environment: dict[str, str]
    self_test: SelfTest | None


class CompareDocument(Document, frozen=True, kw_only=True):
    """What ``cmap compare --json`` prints; fields as in :class:`~cmap_cli.benchmarking.compare.Comparison`."""

    schema: str = "cmap.compare/1"
    exit_code: int
    failures: tuple[str, ...]
    base: str
    new: str
    alpha: float
    rows: tuple[ComparedRow, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    problems: tuple[str, ...]


class MergeDocument(Document, frozen=True, kw_only=True):
    """What ``cmap merge --json`` prints.

    For a benchmark it has the schema and the fields of ``cmap benchmark --json`` besides.

    Attributes:
        exit_code: of the command.
        command: that wrote the parts: purify, attack or benchmark.
        out: folder of the whole.
        there: finished images, of an attack or benchmark chunks of images.
        listed: how many there are in all; null if no part says so.
        missing: what is missing, a sentence each.
        failed: images that could not be done.
        failures: the first 1,000 of these.
        manifest: file with a line per image, for purify and attack.
        summary: of purify.
        images: of an attack, and the counts below.
        success: how many deceive the classifier; ``success_defended`` the defended classifier.
        png_success: the same for the PNG files; ``png_success_defended`` likewise.
    """

    schema: str = "cmap.merge/1"
    exit_code: int
    command: str
    out: str
    there: int
    listed: int | None
    missing: tuple[str, ...]
    failed: int
    failures: tuple[FailedImage, ...]
    manifest: str | UnsetType = UNSET
    summary: Summary | UnsetType = UNSET
    images: int | UnsetType = UNSET
    success: int | UnsetType = UNSET
    success_defended: int | UnsetType = UNSET
    png_success: int | UnsetType = UNSET
    png_success_defended: int | UnsetType = UNSET
