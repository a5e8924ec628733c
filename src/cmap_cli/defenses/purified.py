"""The whole defence (purification, classification and vote) as one module that can be attacked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmap_cli.choices import Access, Vote
from cmap_cli.core.predict import VOTES, classify, hard_vote, select
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.defenses.base import Passes, RowSeeds, class_condition
from cmap_cli.defenses.unroll import purify_unrolled

if TYPE_CHECKING:  # which imports this module
    from cmap_cli.defenses.deployed import Defenses

Gradient = Literal["none", "bpda", "unrolled"]
GRADIENTS: dict[Access, Gradient] = {"bpda": "bpda", "white-box": "unrolled"}
SMOOTHING = 0.0
"""Default of the unrolled gradient: exact. With 0.02 and 0.1 attacks on the bundled model were not stronger."""
FLOOR = 1e-3
"""Weight of the order of the classes in the scores of the hard vote; below 1 / (K + 1) it only decides ties."""


def soft_scores(logits: Tensor) -> Tensor:
    """The soft vote, log mean_k softmax, in log space: (B, K, classes) -> (B, classes), finite as the logits."""
    return logits.log_softmax(-1).logsumexp(-2) - math.log(logits.shape[-2])


def hard_scores(logits: Tensor) -> Tensor:
    """The log of the shares of the votes, with the gradient of :func:`soft_scores`; (B, K, classes) -> (B, classes).

    The shares are mixed, with weight FLOOR, with a distribution that falls from the first class to the last. A class
    without a vote therefore gets a finite score, and a tie goes to the lower class, as in
    :func:`~cmap_cli.core.predict.hard_vote`. The backward pass is that of the soft vote.
    """
    classes = logits.shape[-1]
    order = torch.arange(classes, 0, -1).to(logits)
    shares = torch.log((1 - FLOOR) * hard_vote(logits) + FLOOR * order / order.sum())
    soft = soft_scores(logits)
    return shares.detach() + (soft - soft.detach())


SCORES = {"soft": soft_scores, "hard": hard_scores}


class DefendedClassifier(nn.Module):
    """Vote of a classifier over the candidates of a purifier.

    Under attack every row of every call gets fresh latents (EOT is then a mean over calls), unless :meth:`freeze` makes
    them known to the attacker. The scores of a row do not depend on the other rows.

    Args:
        purifier: the purifier; a class-conditional model receives the classifier's prediction for the input image.
        classifier: images in [0, 1] -> logits, frozen.
        vote: "soft" or "hard".
        gradient: gradient of the purification. "none": there is none, for black-box attacks; torch raises an error if
            one is computed. "bpda": the identity to each of the K candidates. "unrolled": through the steps of Adam.
        unroll: for "unrolled": number of last steps that the gradient is computed through; None for all.
        smoothing: for "unrolled": see :func:`~cmap_cli.defenses.unroll.purify_unrolled`; 0 for the exact gradient.
        batch_size: images per batch of purification and classifier; with more images the classifier is run again in the
            backward pass, to save memory. None for all images.
        seed: seed of the latents.

    Attributes:
        passes: images scored and differentiated so far.
    """

    def __init__(
        self,
        purifier: Purifier,
        classifier: nn.Module,
        *,
        vote: Vote = "soft",
        gradient: Gradient = "none",
        unroll: int | None = None,
        smoothing: float = SMOOTHING,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.purifier = purifier
        self.classifier = classifier
        self.vote: Vote = vote
        self.gradient: Gradient = gradient
        self.unroll = unroll
        self.smoothing = smoothing
        self.batch_size = batch_size
        self.seeds = RowSeeds(seed)
        self.passes = Passes()

    def reseed(self, seeds: Sequence[int]) -> None:
        """Restart the sequence of fresh latents, with one seed per image."""
        self.seeds.reseed(seeds)

    def attend(self, rows: Sequence[int] | None) -> None:
        """The next calls get these rows of the attacked images; None for all rows."""
        self.seeds.attend(rows)

    def freeze(self, seeds: Sequence[int] | None) -> None:
        """Use the latents of these seeds in every call, one per row or one for all rows; None for fresh ones again."""
        self.seeds.freeze(seeds)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> scores (B, classes): log-probabilities, which losses take as logits.

        Raises:
            ValueError: B is not the number of frozen seeds.
        """
        generators = self.seeds.generators(len(x))
        size = self.batch_size or max(1, len(x))
        chunks = [
            self._scores(x[begin : begin + size], generators[begin : begin + size], recompute=len(x) > size)
            for begin in range(0, len(x), size)
        ]
        return self.passes.count(torch.cat(chunks))

    def candidates(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :class:`~cmap_cli.defenses.base.HasCandidates`; if latents are frozen, ``seeds`` is not used."""
        generators = [Generator().manual_seed(seed) for seed in seeds]
        if self.seeds.frozen is not None:
            generators = self.seeds.generators(len(x))
        size = self.batch_size or max(1, len(x))
        parts = range(0, len(x), size)
        return torch.cat([self._samples(x[first : first + size], generators[first : first + size]) for first in parts])

    def vote_scores(self, candidates: Tensor) -> Tensor:
        """See :class:`~cmap_cli.defenses.base.HasCandidates`."""
        return SCORES[self.vote](classify(self.classifier, candidates))

    def _scores(self, x: Tensor, generators: list[Generator], *, recompute: bool) -> Tensor:
        """Scores of one chunk; ``recompute`` runs the classifier again in the backward pass."""
        samples = self._samples(x, generators)
        if recompute and samples.requires_grad:
            logits = checkpoint(classify, self.classifier, samples, use_reentrant=False, preserve_rng_state=False)
        else:
            logits = classify(self.classifier, samples)
        return SCORES[self.vote](logits)

    def _samples(self, x: Tensor, generators: list[Generator]) -> Tensor:
        """The K candidates, (B, K, C, H, W) in [0, 1], with the chosen gradient."""
        labels = class_condition(self.purifier.model, self.classifier, x)
        if self.gradient == "unrolled":
            return purify_unrolled(
                self.purifier, x, generators, unroll=self.unroll, smoothing=self.smoothing, labels=labels
            )
        samples = self.purifier(x.detach(), generators, labels=labels).samples
        if self.gradient == "none":
            return samples
        return samples + (x - x.detach()).unsqueeze(1)


def attacked_module(
    parts: Defenses, access: Access, *, unroll: int | None, smoothing: float, frozen: bool = False
) -> DefendedClassifier:
    """Rows of :data:`~cmap_cli.defenses.table.DEFENSES`; ``frozen`` latents are the same for every image and call."""
    module = DefendedClassifier(
        parts.purifier,
        parts.classifier,
        vote=parts.vote,
        gradient=GRADIENTS.get(access, "none"),
        unroll=unroll,
        smoothing=smoothing,
        batch_size=parts.batch_size,
        seed=parts.seed,
    )
    module.freeze((parts.seed,) if frozen else None)
    return module


def purify_and_vote(parts: Defenses, x: Tensor, seed: int, *, frozen: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of :data:`~cmap_cli.defenses.table.DEFENSES`: shares of the classes, and purified images."""
    labels = class_condition(parts.purifier.model, parts.classifier, x)
    generators = [Generator().manual_seed(parts.seed) for _ in x] if frozen else image_generators(x, seed)
    found = parts.purifier(x, generators, labels=labels)
    return VOTES[parts.vote](classify(parts.classifier, found.samples)), select(found, "mean")
