"""Options of the purification's objective, and of the attack on it, which several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from cmap_cli.choices import LpipsTrunk, Perceptual
from cmap_cli.cli import options

PerceptualOption = Annotated[
    Perceptual, typer.Option(help="The perceptual term of the objective.", rich_help_panel=options.METHOD_DETAILS)
]
LpipsTrunkOption = Annotated[
    LpipsTrunk, typer.Option(help="The network under LPIPS.", rich_help_panel=options.METHOD_DETAILS)
]
AdvFactor = Annotated[
    float,
    typer.Option(
        min=0,
        help="Weight of the classifier in disruption, against the objective of purification.",
        metavar="FACTOR",
        rich_help_panel=options.THREAT_DETAILS,
    ),
]
