"""Pieces of HTML: tables, cells, lists of values. Every text that comes from outside is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from cmap_cli.benchmarking.report.charts import interval_bar
from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.tables import Cell, ReportTable, TableRow
from cmap_cli.benchmarking.report.words import interval, percent

LONG = 40  # characters of a cell that may be broken into lines


def table(one: ReportTable, *, caption: bool = True) -> str:
    """A table that scrolls inside its own box, its note under it; empty without rows."""
    if not one.rows:
        return ""
    heads = "".join(map(table_head, one.columns))
    rows = "".join(map(table_row, one.rows))
    shown = f"<caption>{escape(one.title)}</caption>" if caption else ""
    note = f'<p class="note">{escape(one.note)}</p>' if one.note else ""
    return (
        f'<div class="block"><div class="scroll" role="region" tabindex="0" aria-label="{escape(one.title)}">\n'
        f'<table class="data">{shown}<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n'
        f"{note}</div>\n"
    )


def table_head(name: str) -> str:
    """The head of a column; one of several words is kept from growing tall and thin."""
    style = ' class="words"' if " " in name else ""
    return f'<th scope="col"{style}>{escape(name)}</th>'


def table_row(row: TableRow) -> str:
    """A row; its first cell is its header."""
    style = ' class="strong"' if row.strong else ""
    first, *rest = row.cells
    cells = "".join(map(table_cell, rest))
    return f'<tr{style}><th scope="row">{breakable(str(first))}</th>{cells}</tr>\n'


def table_cell(cell: Cell) -> str:
    """A text, or a rate with its bar, interval and counts."""
    if isinstance(cell, Rate):
        return (
            f'<td class="rate"><span>{percent(cell.value)}</span>{interval_bar(cell)}'
            f"<small>{interval(cell)} · {cell.right} of {cell.n}</small></td>"
        )
    if cell is None:
        return "<td>–</td>"
    return f'<td class="long">{breakable(cell)}</td>' if len(cell) > LONG else f"<td>{breakable(cell)}</td>"


def breakable(text: str) -> str:
    """Text in which a line may end before the access of an attack."""
    return escape(text).replace("@", "<wbr>@")


def details(summary: str, body: str) -> str:
    """Something to open; empty if there is nothing in it."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n" if body else ""


def section(heading: str, body: str, name: str = "") -> str:
    """A part of the page; empty if there is nothing in it."""
    if not body:
        return ""
    marked = f' class="{name}"' if name else ""
    return f"<section{marked}>\n<h2>{escape(heading)}</h2>\n{body}</section>\n"


def values(mapping: Mapping[str, Any]) -> str:
    """Names and values; a mapping or a list within is spelled as JSON."""
    pairs = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{escape(spelled(value))}</code></dd>\n" for name, value in mapping.items()
    )
    return f'<dl class="values">\n{pairs}</dl>\n' if pairs else ""


def spelled(value: object) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
