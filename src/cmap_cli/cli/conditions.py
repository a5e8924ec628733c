"""Options of ``cmap benchmark`` and ``cmap merge`` that make a run a check in CI."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmap_cli.choices import FailOn
from cmap_cli.cli import completion
from cmap_cli.cli.command import DETAILS_OF

if TYPE_CHECKING:
    from cmap_cli.benchmarking.thresholds import Gate

CI = "Conditions for CI"
CI_DETAILS = f"{DETAILS_OF} the conditions"

FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[ACCESS@EPS=]SHARE",
        help="Exit with 1 if robust accuracy is lower: 0.5, white-box@4/255=0.2 or 8/255@class:cat=0.1; repeat it for "
        "several conditions.",
        show_default=False,
        rich_help_panel=CI,
    ),
]
FailUnderClean = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Exit with 1 if defended clean accuracy is lower.",
        metavar="SHARE",
        rich_help_panel=CI_DETAILS,
    ),
]
FailOnOption = Annotated[
    FailOn,
    typer.Option(
        "--fail-on",
        help="What must not be lower: the estimate, or its interval's lower end.",
        rich_help_panel=CI_DETAILS,
    ),
]
FailOnFlags = Annotated[
    bool, typer.Option("--fail-on-flags", help="Exit with 1 if a masking check fires.", rich_help_panel=CI_DETAILS)
]
FailOnWeak = Annotated[
    bool,
    typer.Option(
        "--fail-on-weak",
        help="Exit with 1 if a budget is weak: few steps, queries, images or re-evaluations, one draw per gradient.",
        rich_help_panel=CI_DETAILS,
    ),
]
RequireAccess = Annotated[
    list[str] | None,
    typer.Option(
        "--require-access",
        help="Fail a run without attacks of this access; repeat it for several.",
        show_default=False,
        metavar="ACCESS",
        autocompletion=completion.accesses,
        rich_help_panel=CI_DETAILS,
    ),
]
AcceptAccess = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-access",
        help="Let --fail-under judge a run whose attacks do not go through the defence: transfer or surrogate.",
        show_default=False,
        metavar="ACCESS",
        autocompletion=completion.accesses,
        rich_help_panel=CI_DETAILS,
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        help="Write the results as JUnit XML to this file.", show_default=False, metavar="FILE", rich_help_panel=CI
    ),
]
Baseline = Annotated[
    Path | None,
    typer.Option(
        help="Folder or report.json of an earlier run on the same images to compare with, as cmap compare does.",
        show_default=False,
        metavar="DIR",
        rich_help_panel=CI,
    ),
]
FailOnRegression = Annotated[
    bool,
    typer.Option(
        "--fail-on-regression",
        help="Exit with 1 if the run is significantly worse than --baseline.",
        rich_help_panel=CI_DETAILS,
    ),
]


def gate_of(values: Mapping[str, Any]) -> Gate:
    """The conditions for CI among the options of a command (all problems at once as UsageError)."""
    from cmap_cli.benchmarking.thresholds import parse_gate

    return parse_gate(
        values["fail_under"] or (),
        values["fail_under_clean"],
        values["fail_on"],
        fail_on_flags=values["fail_on_flags"],
        fail_on_weak=values["fail_on_weak"],
        require_access=values["require_access"] or (),
        accept_access=values["accept_access"] or (),
    )
