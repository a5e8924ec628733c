"""Denoised randomised smoothing as a defence: the vote over many noisy samples, and its differentiable version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cmap_cli.choices import Access
from cmap_cli.defenses.base import Passes, RowSeeds
from cmap_cli.defenses.purified import soft_scores
from cmap_cli.defenses.smoothing import NoisyClassifier, classify_blocks, noise_key, noisy_samples

if TYPE_CHECKING:  # which imports this module
    from cmap_cli.defenses.deployed import Defenses

ATTACKED_SAMPLES = 8
"""Noisy samples per forward pass under attack; ``--eot`` averages over more passes."""


class SmoothedDefense(nn.Module):
    """Log of the mean of the softmax over noisy samples: the module that attacks on the smoothed classifier use.

    The hard vote has no gradient. Salman et al. (2019, arXiv 1906.04584) attack this soft version of it. Noise is fresh
    in every call unless frozen. It is not rounded to the grid of :mod:`~cmap_cli.defenses.smoothing`.

    Args:
        classifier: the classifier of noisy images.
        sigma: standard deviation of the noise, for images in [0, 1].
        seed: seed of the noise.
        samples: noisy samples per forward pass.

    Attributes:
        passes: images scored and differentiated so far.
    """

    def __init__(
        self, classifier: NoisyClassifier, sigma: float, seed: int = 0, samples: int = ATTACKED_SAMPLES
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.sigma = sigma
        self.samples = samples
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

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> scores (B, classes)."""
        drawn = [torch.randn((self.samples, *x.shape[1:]), generator=each) for each in self.seeds.generators(len(x))]
        noisy = (x[:, None] + self.sigma * torch.stack(drawn).to(x)).flatten(0, 1)
        logits = self.classifier(noisy, torch.full((len(noisy),), self.sigma, device=x.device))
        return self.passes.count(soft_scores(logits.unflatten(0, (len(x), self.samples))))


def noisy_classifier(parts: Defenses) -> NoisyClassifier:
    """The classifier that is smoothed: the purifier's model as denoiser, in its precision, before the classifier."""
    return NoisyClassifier(parts.purifier.model, parts.classifier, dtype=parts.purifier.dtype)


def attacked_module(parts: Defenses, access: Access, *, unroll: int | None, smoothing: float) -> SmoothedDefense:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`: noise, denoiser and classifier are differentiable."""
    return SmoothedDefense(noisy_classifier(parts), parts.sigma, parts.seed)


def vote_on_samples(parts: Defenses, x: Tensor, seed: int) -> tuple[Tensor, None]:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`: how many noisy samples have each class, (B, classes)."""
    classifier = noisy_classifier(parts)
    count = parts.classifier(x[:1]).shape[-1]
    sigma = torch.full((parts.samples,), parts.sigma)
    votes = []
    for image in x:
        noisy = noisy_samples(image, parts.sigma, noise_key(image, parts.sigma, seed), range(parts.samples))
        classes = torch.tensor(classify_blocks(classifier, noisy, sigma, x.device))
        votes.append(torch.bincount(classes, minlength=count))
    return torch.stack(votes), None
