"""The table of defences: a new defence is one file and one row. Imports no torch, so that ``cmap --help`` is quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from cmap_cli.choices import Access


@dataclass(frozen=True, slots=True)
class DefenseEntry:
    """A row of the table. Functions are named "package.module:function" and imported when they are called.

    Attributes:
        about: short description for the help.
        accesses: accesses of the attacks that are possible on it. For example, JPEG has no gradient, and consistency
            disruption works in the latents of purification.
        target: called with the deployed defences, the access, and ``unroll`` and ``smoothing`` of white-box gradients;
            returns the module that an attack through this defence is run on.
        draw: called with the deployed defences, images (B, C, H, W) in [0, 1] and a seed; returns scores or votes
            (B, classes) and the purified images, None if nothing is purified.
        is_randomised: whether another seed gives another result.
        optimises: whether it runs the optimisation steps of purification, which determine the cost of a pass.
        counts_votes: whether the scores are numbers of votes, which are stored in the records.
        options: further keyword arguments of both functions, if several rows use the same functions.
    """

    about: str
    accesses: frozenset[Access]
    target: str
    draw: str
    is_randomised: bool = True
    optimises: bool = False
    counts_votes: bool = False
    options: Mapping[str, int] = field(default_factory=dict)


def jpeg_entry(quality: int) -> DefenseEntry:
    """A row for JPEG compression of this quality."""
    return DefenseEntry(
        f"JPEG of quality {quality}",
        frozenset({"transfer", "bpda", "black-box"}),
        "cmap_cli.defenses.jpeg:attacked_module",
        "cmap_cli.defenses.jpeg:compress_and_classify",
        is_randomised=False,
        options={"quality": quality},
    )


DEFENSES: dict[str, DefenseEntry] = {
    "cmap": DefenseEntry(
        "purification and vote",
        frozenset(get_args(Access)),
        "cmap_cli.defenses.purified:attacked_module",
        "cmap_cli.defenses.purified:purify_and_vote",
        optimises=True,
    ),
    "cmap-frozen": DefenseEntry(
        "the same with latents that the attacker knows",
        frozenset(get_args(Access)),
        "cmap_cli.defenses.purified:attacked_module",
        "cmap_cli.defenses.purified:purify_and_vote",
        is_randomised=False,
        options={"frozen": True},
    ),
    "onestep": DefenseEntry(
        "diffuse and denoise once",
        frozenset({"transfer", "surrogate", "white-box", "black-box"}),
        "cmap_cli.defenses.onestep:attacked_module",
        "cmap_cli.defenses.onestep:denoise_and_classify",
    ),
    "smoothed": DefenseEntry(
        "vote over denoised noisy samples, with certificates",
        frozenset({"transfer", "surrogate", "white-box", "black-box"}),
        "cmap_cli.defenses.smoothed:attacked_module",
        "cmap_cli.defenses.smoothed:vote_on_samples",
        counts_votes=True,
    ),
    "jpeg": jpeg_entry(75),
    "jpeg-50": jpeg_entry(50),
    "jpeg-20": jpeg_entry(20),
    "none": DefenseEntry(
        "the bare classifier",
        frozenset({"transfer"}),
        "cmap_cli.defenses.jpeg:bare_module",
        "cmap_cli.defenses.jpeg:classify_bare",
        is_randomised=False,
    ),
}


def imported(name: str) -> Any:
    """The function that "package.module:function" names."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
