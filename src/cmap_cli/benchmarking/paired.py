"""Paired statistics of two runs on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Pairs:
    """Counts of images by the results of two runs.

    Attributes:
        both: images that are right in both runs.
        lost: images that are right in the first run only.
        gained: images that are right in the second run only.
        neither: images that are wrong in both runs.
    """

    both: int
    lost: int
    gained: int
    neither: int

    @property
    def n(self) -> int:
        """Images in all."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second run minus that of the first, from -1 to 1."""
        return (self.gained - self.lost) / self.n


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> Pairs:
    """Count the four cases; both sequences have the same images in the same order.

    Raises:
        ValueError: there are no images, or the sequences differ in length.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} images are not pairs")
    cases = list(zip(first, second, strict=True))
    return Pairs(
        cases.count((True, True)), cases.count((True, False)), cases.count((False, True)), cases.count((False, False))
    )


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact McNemar test: p = min(1, 2·P(X ≤ min(lost, gained))), X ~ Binomial(lost + gained, ½).

    Only images on which the two runs differ count (McNemar 1947).

    Args:
        lost: number of images that are right in the first run only.
        gained: number of images that are right in the second run only.
    """
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2 * tail / (1 << n))  # integers, so that large n does not underflow


def difference_interval(pairs: Pairs, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the paired difference of two proportions (Bonett & Price 2012).

    One image is added to each of lost and gained and two to n, then Wald's formula is used.

    Args:
        pairs: the counts.
        confidence: between 0 and 1.

    Returns:
        Lower and upper end, in [-1, 1].
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    n = pairs.n + 2
    lost, gained = (pairs.lost + 1) / n, (pairs.gained + 1) / n
    half = z * math.sqrt((lost + gained - (gained - lost) ** 2) / n)
    return max(-1.0, gained - lost - half), min(1.0, gained - lost + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979): any false alarm at level alpha has probability alpha at most.

    Args:
        p_values: p values of all tests.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
