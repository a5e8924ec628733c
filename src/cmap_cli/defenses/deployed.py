"""The deployed defences by name: the module that an attacker is given, and what each defence makes of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmap_cli.choices import Access, Defense, Vote
from cmap_cli.core.predict import VOTES, classify, select
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.defenses.jpeg import JpegDefense, Undefended
from cmap_cli.defenses.onestep import OneStepDefense
from cmap_cli.defenses.purified import DefendedClassifier, Gradient

GRADIENTS: dict[str, Gradient] = {"bpda": "bpda", "white-box": "unrolled"}
Target = DefendedClassifier | OneStepDefense | Undefended


@dataclass(frozen=True)
class Defenses:
    """The deployed defences by name, and what stands in for them under attack.

    Attributes:
        names: which.
        classifier: undefended, images in [0, 1] -> logits.
        purifier: of "cmap"; its model is that of "onestep" and of the surrogate.
        vote: how candidates' predictions are combined.
        batch_size: images at once.
        seed: of the first draw.
    """

    names: Sequence[Defense]
    classifier: nn.Module
    purifier: Purifier
    vote: Vote
    batch_size: int
    seed: int

    def target(
        self, access: Access, defense: Defense | None, *, unroll: int | None = None, smoothing: float = 0.0
    ) -> Target:
        """The module that an attack with this access is run on.

        Args:
            access: of the attacker.
            defense: which one is attacked; None for attacks that do not depend on it.
            unroll: optimisation steps that white-box gradients go back through, from the last; None for all.
            smoothing: of the pixel term in white-box gradients, see :func:`~cmap_cli.defenses.unroll.purify_unrolled`.
        """
        if access == "surrogate" or (defense == "onestep" and access != "transfer"):
            return OneStepDefense(self.purifier.model, self.classifier, self.seed)
        if access == "transfer" or defense in (None, "none"):
            return Undefended(self.classifier)
        if defense == "jpeg":
            return JpegDefense(self.classifier)
        return DefendedClassifier(
            self.purifier,
            self.classifier,
            vote=self.vote,
            gradient=GRADIENTS.get(access, "none"),
            unroll=unroll,
            smoothing=smoothing,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    @torch.no_grad()
    def evaluate(self, defense: Defense, x: Tensor, draws: int) -> tuple[list[list[int]], Tensor | None]:
        """What a deployed defence says about images, several times with fresh randomness.

        Draw k is what ``cmap purify --seed`` does with the seed plus k: it depends on the image and the seed alone.

        Args:
            defense: which.
            x: images in [0, 1], (B, C, H, W).
            draws: how often; once is enough for a defence without randomness.

        Returns:
            The predicted classes, draws × B, and the purified images of the first draw, None if nothing is purified.
        """
        if defense in ("none", "jpeg"):
            module = Undefended(self.classifier) if defense == "none" else JpegDefense(self.classifier)
            return [module(x).argmax(-1).tolist()], None
        found: list[list[int]] = []
        first: list[Tensor] = []
        for draw in range(draws):
            predicted: list[int] = []
            for part in torch.split(x, self.batch_size):
                votes, purified = self.purify_and_vote(defense, part, self.seed + draw)
                predicted += votes.argmax(-1).tolist()
                if draw == 0:
                    first.append(purified)
            found.append(predicted)
        return found, torch.cat(first)

    def purify_and_vote(self, defense: Defense, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """One draw of a defence: shares of the classes (B, classes), and purified images (B, C, H, W)."""
        generators = image_generators(x, seed)
        if defense == "onestep":
            module = OneStepDefense(self.purifier.model, self.classifier)
            module.freeze([generator.initial_seed() for generator in generators])
            purified = module.purify(x).clamp(0, 1)
            logits: Tensor = self.classifier(purified)
            return logits, purified
        found = self.purifier(x, generators)
        return VOTES[self.vote](classify(self.classifier, found.samples)), select(found, "mean")
