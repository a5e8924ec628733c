"""The deployed defences by name: the module that an attack is run on, and the evaluation of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cmap_cli.choices import Access, Vote
from cmap_cli.core.purifier import Purifier
from cmap_cli.defenses.base import Passes
from cmap_cli.defenses.jpeg import Undefended
from cmap_cli.defenses.onestep import OneStepDefense
from cmap_cli.defenses.table import DEFENSES, imported


class AttackedModule(Protocol):
    """A module that an attack is run on: it maps images to scores and counts its passes."""

    passes: Passes

    def eval(self) -> nn.Module: ...


class Evaluation(NamedTuple):
    """The predictions of a deployed defence for B images, and its purified images.

    Attributes:
        draws: the predicted classes, draws × B.
        purified: the purified images of the first draw, (B, C, H, W) in [0, 1]; None if nothing is purified.
        votes: only for a defence that counts votes: number of samples per class, draws × B × classes.
    """

    draws: list[list[int]]
    purified: Tensor | None
    votes: list[list[list[int]]]


@dataclass(frozen=True)
class Defenses:
    """The deployed defences by name, and the modules that attacks on them are run on.

    Attributes:
        names: names of the defences, rows of :data:`~cmap_cli.defenses.table.DEFENSES`.
        classifier: the bare classifier, images in [0, 1] -> logits.
        purifier: purifier of "cmap"; "onestep" and the surrogate use its model.
        vote: how the predictions of the candidates are combined.
        batch_size: images per batch.
        seed: seed of the first draw.
        sigma: for "smoothed": standard deviation of the noise, for images in [0, 1].
        samples: for "smoothed": noisy samples per vote.
    """

    names: Sequence[str]
    classifier: nn.Module
    purifier: Purifier
    vote: Vote
    batch_size: int
    seed: int
    sigma: float = 0.25
    samples: int = 100

    def target(
        self, access: Access, defense: str | None, *, unroll: int | None = None, smoothing: float = 0.0
    ) -> AttackedModule:
        """The module that an attack with this access is run on.

        Args:
            access: what the attacker knows.
            defense: name of the attacked defence; None for attacks that do not depend on it.
            unroll: number of last optimisation steps that white-box gradients are computed through; None for all.
            smoothing: of the pixel term in white-box gradients, see :func:`~cmap_cli.defenses.unroll.purify_unrolled`.
        """
        if access == "surrogate":
            return OneStepDefense(self.purifier.model, self.classifier, self.seed)
        if access == "transfer" or defense is None:
            return Undefended(self.classifier)
        entry = DEFENSES[defense]
        build = imported(entry.target)
        attacked: AttackedModule = build(self, access, unroll=unroll, smoothing=smoothing, **entry.options)
        return attacked

    @torch.no_grad()
    def evaluate(
        self, defense: str, x: Tensor, draws: int, on_draw: Callable[[int, int], None] | None = None
    ) -> Evaluation:
        """Evaluate a deployed defence on images, several times with fresh randomness.

        Draw k equals ``cmap purify`` with the seed plus k: it depends only on the image and the seed.

        Args:
            defense: name of the defence.
            x: images in [0, 1], (B, C, H, W).
            draws: number of evaluations; a defence without randomness is evaluated once.
            on_draw: called before each draw with its number, from 1, and the number of draws.

        Returns:
            The predicted classes of all draws, and the purified images of the first draw.
        """
        entry = DEFENSES[defense]
        draw = partial(imported(entry.draw), **entry.options)
        found: list[list[int]] = []
        first: list[Tensor] = []
        votes: list[list[list[int]]] = []
        count = draws if entry.is_randomised else 1
        for number in range(count):
            if on_draw is not None:
                on_draw(number + 1, count)
            predicted: list[int] = []
            counted: list[list[int]] = []
            for part in torch.split(x, self.batch_size):
                scores, purified = draw(self, part, self.seed + number)
                predicted += scores.argmax(-1).tolist()
                counted += scores.tolist() if entry.counts_votes else []
                if number == 0 and purified is not None:
                    first.append(purified)
            found.append(predicted)
            votes.append(counted)
        return Evaluation(found, torch.cat(first) if first else None, votes)
