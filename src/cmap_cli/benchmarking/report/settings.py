"""Settings and provenance as tables of names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cmap_cli.benchmarking.report.tables import ReportTable, TableRow

MANY = 12  # values of a list: above it only its ends are shown


def values_table(title: str, mapping: Mapping[str, Any]) -> ReportTable:
    """A table of names and values; a nested mapping has one row per entry."""
    rows = [TableRow((name, text)) for name, text in flattened(mapping)]
    return ReportTable(title, ("Name", "Value"), tuple(rows))


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names with their values as text; the name of a nested entry follows that of its mapping: "budget: steps"."""
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}: ")
        else:
            yield f"{prefix}{name}", value_words(value)


def value_words(value: object) -> str:
    """A value as text; of a long list only the first and last entries."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, list | tuple):
        return str(value)
    words = [value_words(one) for one in value]
    if len(words) > MANY:
        return f"{', '.join(words[:3])}, …, {words[-1]} ({len(words)} values)"
    return ", ".join(words) or "none"
