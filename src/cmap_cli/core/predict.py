"""Latent vector consistency prediction: the K purified candidates of an image are classified and vote."""

from __future__ import annotations

import torch
from torch import Tensor

from cmap_cli.choices import Select
from cmap_cli.core.types import Classifier, Purification


def classify(classifier: Classifier, samples: Tensor) -> Tensor:
    """Logits (B, K, classes) of candidates (B, K, C, H, W) in [0, 1], in one call of the classifier."""
    logits = classifier(samples.flatten(0, 1))
    return logits.reshape(*samples.shape[:2], -1)


def soft_vote(logits: Tensor) -> Tensor:
    """Mean over K of the softmax over classes: (B, K, classes) -> probabilities (B, classes)."""
    return logits.softmax(-1).mean(-2)


def hard_vote(logits: Tensor) -> Tensor:
    """One vote per latent: (B, K, classes) -> share of the votes (B, classes). A tie goes to the lower class."""
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits).mean(-2)


def most_certain(logits: Tensor) -> Tensor:
    """The candidate with the highest probability of the class that the soft vote gives: (B, K, classes) -> (B,)."""
    winner = soft_vote(logits).argmax(-1)
    return logits.softmax(-1).gather(-1, winner[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(-1).argmax(1)


VOTES = {"soft": soft_vote, "hard": hard_vote}


def select(purification: Purification, how: Select, logits: Tensor | None = None) -> Tensor:
    """One image out of the K candidates, (B, C, H, W) in [0, 1].

    Args:
        purification: the candidates.
        how: "best": closest to the input by the restoration objective; "mean": the average of the candidates;
            "medoid": the candidate closest to all others (sum of L2 distances); "vote": the candidate with the
            highest probability of the class that the soft vote gives.
        logits: of the candidates, (B, K, classes); needed for "vote".

    Raises:
        ValueError: "vote" without logits.
    """
    samples = purification.samples
    if how == "mean":
        return samples.mean(1)
    if how == "best":
        index = purification.restoration.argmin(1)
    elif how == "medoid":
        flat = samples.flatten(2)
        index = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum(2).argmin(1)
    else:
        if logits is None:
            raise ValueError('select "vote" needs the logits of the candidates')
        index = most_certain(logits)
    return samples[torch.arange(len(samples), device=samples.device), index]
