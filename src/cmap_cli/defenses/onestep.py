"""Purification in one step: noise, one call of the consistency model, classify. The paper's surrogate of CMAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn

from cmap_cli.choices import Access
from cmap_cli.core.consistency import clip, consistency, karras_levels, to_model_range, to_unit_range
from cmap_cli.core.purifier import image_generators
from cmap_cli.core.types import ConsistencyModel
from cmap_cli.defenses.base import Passes, RowSeeds, class_condition

if TYPE_CHECKING:  # which imports this module
    from cmap_cli.defenses.deployed import Defenses

LEVELS = 18
LEVEL = 4
"""The 0-based level of the Karras grid that the paper's surrogate diffuses to, "number 5 of 18" (arXiv 2412.08394)."""


class OneStepDefense(nn.Module):
    """x̂ = clip(f(y + sigma·n, sigma), −1, 1) with n ~ N(0, I), then the classifier.

    Differentiable; in the backward pass the clip is the identity. The noise is fresh in every call unless
    frozen, as in :class:`~cmap_cli.defenses.purified.DefendedClassifier`.

    Args:
        model: the consistency model; a class-conditional one receives the classifier's prediction for the image.
        classifier: images in [0, 1] -> logits, frozen.
        seed: seed of the noise.

    Attributes:
        sigma: the noise level.
        passes: images scored and differentiated so far.
    """

    def __init__(self, model: ConsistencyModel, classifier: nn.Module, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self.sigma = karras_levels(LEVELS, model.sigma_min, model.sigma_max)[LEVEL]
        self.seeds = RowSeeds(seed)
        self.passes = Passes()

    def reseed(self, seeds: Sequence[int]) -> None:
        """Restart the sequence of fresh noise, with one seed per image."""
        self.seeds.reseed(seeds)

    def attend(self, rows: Sequence[int] | None) -> None:
        """The next calls get these rows of the attacked images; None for all rows."""
        self.seeds.attend(rows)

    def freeze(self, seeds: Sequence[int] | None) -> None:
        """Use the noise of these seeds in every call, one per row or one for all rows; None for fresh noise again."""
        self.seeds.freeze(seeds)

    def purify(self, x: Tensor) -> Tensor:
        """Denoise images (B, C, H, W) in [0, 1]."""
        return self._denoise(x, self.seeds.generators(len(x)))

    def candidates(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :class:`~cmap_cli.defenses.base.HasCandidates`; one candidate per image."""
        return self._denoise(x, [Generator().manual_seed(seed) for seed in seeds])[:, None]

    def vote_scores(self, candidates: Tensor) -> Tensor:
        """See :class:`~cmap_cli.defenses.base.HasCandidates`."""
        logits: Tensor = self.classifier(candidates[:, 0])
        return logits

    def _denoise(self, x: Tensor, generators: Sequence[Generator]) -> Tensor:
        """Add the generators' noise to the images and denoise them."""
        noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators]).to(x)
        labels = class_condition(self.model, self.classifier, x)
        images = consistency(self.model, to_model_range(x) + self.sigma * noise, self.sigma, labels)
        return to_unit_range(clip(images, straight_through=True))

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, classes)."""
        logits: Tensor = self.classifier(self.purify(x))
        return self.passes.count(logits)


def attacked_module(parts: Defenses, access: Access, *, unroll: int | None, smoothing: float) -> OneStepDefense:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`: one step is differentiable as it is."""
    return OneStepDefense(parts.purifier.model, parts.classifier, parts.seed)


def denoise_and_classify(parts: Defenses, x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`."""
    module = OneStepDefense(parts.purifier.model, parts.classifier)
    module.freeze([generator.initial_seed() for generator in image_generators(x, seed)])
    purified = module.purify(x).clamp(0, 1)
    return parts.classifier(purified), purified
