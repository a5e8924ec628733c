"""The Jinja templates of reports and pictures, and the filters that they use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.words import headline_facts, headline_number, interval, listed, percent, title

SPECIAL = re.compile(r"([\\`*_\[\]<>|#~])")


@cache
def environment() -> Environment:
    """The templates of assets/report; values in HTML and SVG are escaped, and an undefined name is an error."""
    made = Environment(
        loader=PackageLoader("cmap_cli", "assets/report"),
        autoescape=select_autoescape(["html.j2", "svg.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "headline_facts": headline_facts,
        "headline_number": headline_number,
        "interval": interval,
        "listed": listed,
        "markdown": markdown_text,
        "percent": percent,
        "place": place,
        "points": points,
        "title": title,
    }
    made.tests["rate"] = is_rate
    return made


def render(template: str, **values: object) -> str:
    """Render a template of assets/report with values."""
    return environment().get_template(template).render(values)


def is_rate(value: object) -> bool:
    """Whether a cell is a rate."""
    return isinstance(value, Rate)


def markdown_text(text: str) -> str:
    """Text on one line, with Markdown's special characters escaped."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def place(share: float) -> str:
    """A share as a position in SVG, "12.50%"."""
    return f"{100 * share:.2f}%"


def points(places: Iterable[tuple[float, float]]) -> str:
    """Points in the unit square in the notation of SVG polygons."""
    return " ".join(f"{x:.4f},{y:.4f}" for x, y in places)
