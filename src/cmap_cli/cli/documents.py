"""What commands print with ``--json`` that no other package has a type for."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from cmap_cli.benchmarking.compare import ComparedRow
from cmap_cli.purify.diagnosis import SelfTest
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
