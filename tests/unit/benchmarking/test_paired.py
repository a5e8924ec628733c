"""Paired statistics against scipy, known values and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from cmap_cli.benchmarking.paired import Pairs, count_pairs, difference_interval, holm, mcnemar


def test_pairs_are_counted() -> None:
    pairs = count_pairs([True, True, False, False, True], [True, False, True, False, False])
    assert pairs == Pairs(1, 2, 1, 1)
    assert pairs.n == 5
    assert pairs.difference == pytest.approx(-0.2)
    for first, second in (([], []), ([True], [])):
        with pytest.raises(ValueError, match="not pairs"):
            count_pairs(first, second)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 1), (3, 3), (0, 12), (40, 61), (900, 1100)])
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_the_interval_covers_the_difference_as_often_as_it_says() -> None:
    random, covered = np.random.default_rng(0), 0
    shares = np.array([0.6, 0.15, 0.05, 0.2])
    for _ in range(2000):
        low, high = difference_interval(Pairs(*random.multinomial(60, shares).tolist()))
        covered += low <= 0.05 - 0.15 <= high
    assert 0.94 <= covered / 2000 <= 0.98


def test_the_interval_stays_within_bounds() -> None:
    low, high = difference_interval(Pairs(0, 3, 0, 0))
    assert -1 <= low < high < 1


def test_holm_multiplies_the_smallest_most() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_false_alarms_below_alpha() -> None:
    random = np.random.default_rng(1)
    alarms = sum(min(holm(random.random(6).tolist())) < 0.05 for _ in range(4000))
    assert alarms / 4000 < 0.06
