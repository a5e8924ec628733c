"""The fields of a line that a merge needs, and the order in which one process makes the records of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from cmap_cli.errors import UsageError
from cmap_cli.runs.documents import read_document
from cmap_cli.runs.settings import CERTIFY_FILE, SETTINGS_FILE


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that a merge needs of a line of manifest.jsonl or records.jsonl.

    Attributes:
        output: the image that purify wrote.
        png: the picture that attack wrote.
        file: attacked images as floats, of attack and benchmark; None for clean images.
        row: of the image in ``file``.
        item: the attack, or "clean", and ``defense`` and ``image``: of a record of a benchmark.
        sigma: the noise level of a certificate.
    """

    output: str | None = None
    png: str | None = None
    file: str | None = None
    row: int | None = None
    item: str = ""
    defense: str = ""
    image: int = 0
    sigma: float = 0.0


class OrderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a benchmark that its records are ordered by."""

    defenses: tuple[str, ...] = ()


class OrderProvenance(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the items of a benchmark in their order."""

    items: tuple[str, ...] = ()


class OrderDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The part of benchmark.json that determines the order of records."""

    settings: OrderSettings
    provenance: OrderProvenance = OrderProvenance()


def record_key(folder: Path) -> Callable[[Line], tuple[Any, ...]]:
    """Sort key of a benchmark's record: the order in which one process makes them."""
    run = read_document(folder / SETTINGS_FILE, OrderDocument, UsageError)
    items = {name: number for number, name in enumerate(run.provenance.items)}
    defenses = {name: number for number, name in enumerate(run.settings.defenses)}

    def key(line: Line) -> tuple[Any, ...]:
        item, defense = items.get(line.item, len(items)), defenses.get(line.defense, len(defenses))
        return (line.image, item, line.item, defense, line.defense)

    return key


class LevelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of certify.json that its records are ordered by."""

    sigma: tuple[float, ...] = ()


class CertifyOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The part of certify.json that determines the order of records."""

    settings: LevelSettings


def certificate_key(folder: Path) -> Callable[[Line], tuple[Any, ...]]:
    """Sort key of a record of ``cmap certify``: by image, then in the given order of the noise levels."""
    run = read_document(folder / CERTIFY_FILE, CertifyOrder, UsageError)
    levels = {sigma: number for number, sigma in enumerate(run.settings.sigma)}

    def key(line: Line) -> tuple[Any, ...]:
        return (line.image, levels.get(line.sigma, len(levels)), line.sigma)

    return key
