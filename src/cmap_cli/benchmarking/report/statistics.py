"""Accuracies of a randomised classifier over re-evaluations, and confidence intervals of counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Rate:
    """A count of images and its share.

    Attributes:
        right: number of images that are classified correctly.
        n: number of all images, at least one.
        value: right / n.
        low: lower end of the Wilson 95 % interval.
        high: upper end.
    """

    right: int
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class DrawOutcome:
    """The result of one image under one condition, or under the worst of several conditions.

    Attributes:
        voted_right: whether the vote of the draws is the true class.
        always_right: whether every draw is the true class.
        mean: share of draws that are the true class.
        draws: number of draws; the smallest number if several conditions are combined.
    """

    voted_right: bool
    always_right: bool
    mean: float
    draws: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The three accuracies of a randomised classifier on a set of images.

    Attributes:
        vote: rate of images whose vote over the draws is right; a tie for the most frequent class counts as wrong.
        worst_of_n: rate of images that are right in every draw.
        average: mean over draws and images; it is not a count of images and has no interval.
        draws: the numbers of draws per image, ascending; one entry if all images have the same number.
    """

    vote: Rate
    worst_of_n: Rate
    average: float
    draws: tuple[int, ...]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), the score interval of Wilson (1927).

    Args:
        successes: from 0 to n.
        n: trials, at least one.
        confidence: between 0 and 1; z is the standard normal quantile of (1 + confidence) / 2.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: the counts or the confidence are out of range.
    """
    if not 0 <= successes <= n or n < 1 or not 0 < confidence < 1:
        raise ValueError(f"no interval for {successes} of {n} at confidence {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return 0.0 if successes == 0 else max(0.0, low), 1.0 if successes == n else min(1.0, high)


def rate(right: int, n: int) -> Rate | None:
    """The share with its Wilson 95 % interval; None without images."""
    return Rate(right, n, right / n, *wilson_interval(right, n)) if n else None


def rate_of_true(right: Collection[bool]) -> Rate | None:
    """The rate of True."""
    return rate(sum(right), len(right))


def majority(draws: Sequence[int]) -> int | None:
    """The most frequent class; None for a tie, which counts as wrong."""
    counts = Counter(draws).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def draw_outcome(draws: Sequence[int], label: int) -> DrawOutcome:
    """Vote, worst and average of the draws, at least one, of an image of class ``label``."""
    right = sum(draw == label for draw in draws)
    return shared_draw_outcome(majority(draws) == label, right, len(draws))


@lru_cache(maxsize=4096)
def shared_draw_outcome(voted_right: bool, right: int, draws: int) -> DrawOutcome:
    """The outcome, shared between equal ones, so that 100,000 records need few objects."""
    return DrawOutcome(voted_right, right == draws, right / draws, draws)


def right_every_time(outcomes: Collection[DrawOutcome], submissions: int) -> float:
    """Expected share of images that are right in each of N draws, chosen at random from the draws that were made.

    An image that is right in r of D draws is right in all N with the probability C(r, N) / C(D, N).

    Args:
        outcomes: results of the images, at least one.
        submissions: N, at most the number of draws of each image.
    """
    chances = (
        math.comb(round(one.mean * one.draws), submissions) / math.comb(one.draws, submissions) for one in outcomes
    )
    return math.fsum(chances) / len(outcomes)


def worst_outcome(outcomes: Sequence[DrawOutcome]) -> DrawOutcome:
    """The result of an image in the worst case: right only if right under every condition; the smallest mean."""
    return reduce(worse, outcomes)


def worse(one: DrawOutcome, other: DrawOutcome) -> DrawOutcome:
    """The worse of two results, field by field."""
    return DrawOutcome(
        one.voted_right and other.voted_right,
        one.always_right and other.always_right,
        min(one.mean, other.mean),
        min(one.draws, other.draws),
    )


def accuracy(outcomes: Collection[DrawOutcome]) -> Accuracy | None:
    """The accuracies over images, in any order; None without images."""
    vote = rate_of_true([one.voted_right for one in outcomes])
    worst_of_n = rate_of_true([one.always_right for one in outcomes])
    if vote is None or worst_of_n is None:
        return None
    average = math.fsum(one.mean for one in outcomes) / len(outcomes)
    return Accuracy(vote, worst_of_n, average, tuple(sorted({one.draws for one in outcomes})))
