"""``cmap compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.cli import conditions, console, options, problems
from cmap_cli.errors import CmapError, raise_all

if TYPE_CHECKING:
    from cmap_cli.benchmarking.compare import Comparison

FAILED = 1


def compare(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="Folder or report.json of the earlier run.", show_default=False)
    ],
    new: Annotated[
        Path, typer.Argument(metavar="NEW", help="Folder or report.json of the run to judge.", show_default=False)
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            help="Write an SVG of both runs' accuracies to this file.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    alpha: Annotated[
        float,
        typer.Option(help="Level of the tests, for all conditions together (Holm).", rich_help_panel=conditions.CI),
    ] = 0.05,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="Exit with 1 if NEW is significantly worse under any condition, or not all can be compared.",
            rich_help_panel=conditions.CI,
        ),
    ] = False,
    help_all: options.HelpAll = False,
) -> None:
    """Compare two benchmarks of the same images, image by image, with the exact McNemar test.

    Examples:

      cmap compare main-report new-report

      cmap compare baseline/report.json new-report --fail-on-regression

      cmap compare main-report new-report --picture compare.svg --json

    A fixed threshold depends on which images were drawn; a comparison on the same images does not.
    """
    raise_all(problems.compare_problems(dict(locals())))
    from msgspec.structs import replace

    from cmap_cli.benchmarking import compare as comparing

    found = comparing.compare(base, new, alpha=alpha)
    if picture is not None:
        comparing.write_picture(picture, found)
    failures = reasons_to_fail(found) if fail_on_regression else []
    code = FAILED if failures else 0
    if json:
        console.result_json(replace(found, exit_code=code, failures=tuple(failures)))
    elif quiet:
        if picture is not None:
            console.result(str(picture))
    else:
        show_comparison(found)
    for text in failures:
        console.fail(CmapError(text))
    if code:
        raise typer.Exit(code)


def reasons_to_fail(found: Comparison) -> list[str]:
    """Why the new run does not pass; empty if it passes."""
    worse = [
        f"{row.condition}: {row.new} of {row.n} instead of {row.base} correct, p = {row.p_adjusted:.2g}"
        for row in found.regressions
    ]
    return [*worse, *found.problems]


def show_comparison(found: Comparison) -> None:
    """Print the comparison as a table, and one sentence."""
    header = ("condition", "base", "new", "lost", "gained", "difference", "p")
    rows = []
    for row in found.rows:
        verdict = " worse" if row.regression else " better" if row.improvement else ""
        accuracies = (f"{100 * row.base / row.n:.1f} %", f"{100 * row.new / row.n:.1f} %")
        difference = f"{100 * row.difference:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})"
        counts = (str(row.lost), str(row.gained))
        rows.append((str(row.condition), *accuracies, *counts, difference, f"{row.p_adjusted:.3g}{verdict}"))
    console.table(header, rows)
    for problem in found.problems:
        console.warn(problem)
    worse = len(found.regressions)
    better = sum(row.improvement for row in found.rows)
    sizes = sorted({row.n for row in found.rows})
    console.result(
        f"{len(found.rows)} conditions on {' or '.join(map(str, sizes))} images: {worse} significantly worse, "
        f"{better} significantly better (exact McNemar, alpha {found.alpha:g} after Holm)"
    )
