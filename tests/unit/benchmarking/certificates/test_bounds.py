"""Bounds of randomised smoothing: closed forms, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from cmap_cli.benchmarking.certificates.bounds import (
    certified_radius,
    clopper_pearson_lower,
    clopper_pearson_upper,
    exceeds,
    falls_below,
    log_wealth,
    most_wrong,
    needed_probability,
    reachable_radius,
    sequence_lower,
    set_lower,
)

ALPHA = 0.05


def test_clopper_pearson_is_the_inverse_of_the_binomial_tail() -> None:
    for successes, n in ((1, 10), (7, 10), (10, 10), (990, 1000)):
        low = clopper_pearson_lower(successes, n, 0.001)
        assert binom.sf(successes - 1, n, low) == pytest.approx(0.001, rel=1e-6)
    assert clopper_pearson_lower(0, 10, 0.001) == 0
    assert clopper_pearson_lower(10, 10, 0.001) == pytest.approx(0.001 ** (1 / 10))
    assert clopper_pearson_upper(10, 10, 0.001) == 1
    assert binom.cdf(3, 10, clopper_pearson_upper(3, 10, 0.001)) == pytest.approx(0.001, rel=1e-6)


@pytest.mark.parametrize("p", [0.3, 0.6, 0.9, 0.99])
def test_clopper_pearson_covers_exactly_as_it_says(p: float) -> None:
    n = 60
    wrong = sum(binom.pmf(k, n, p) for k in range(n + 1) if clopper_pearson_lower(k, n, ALPHA) > p)
    assert wrong <= ALPHA


def test_the_wealth_is_the_product_of_the_bets() -> None:
    outcomes, p, wealth, successes = [1, 1, 0, 1, 0, 1, 1], 0.4, 1.0, 0
    for i, each in enumerate(outcomes):
        bet = (successes + 0.5) / (i + 1)
        wealth *= bet / p if each else (1 - bet) / (1 - p)
        successes += each
        assert log_wealth(successes, i + 1, p) == pytest.approx(math.log(wealth))


def test_the_wealth_is_a_martingale_under_the_true_probability() -> None:
    p = 0.7
    for n in (1, 5, 40):
        mean = sum(binom.pmf(k, n, p) * math.exp(log_wealth(k, n, p)) for k in range(n + 1))
        assert mean == pytest.approx(1)


def test_decisions_agree_with_the_lower_bound() -> None:
    for successes, n in ((30, 32), (150, 160), (640, 640), (100, 200)):
        low = sequence_lower(successes, n, 0.001)
        assert exceeds(successes, n, low - 1e-6, 0.001)
        assert not exceeds(successes, n, low + 1e-6, 0.001)
        assert not falls_below(successes, n, low, 0.001)
    assert sequence_lower(0, 10, 0.001) == 0
    assert falls_below(0, 20, 0.9, 0.001)


@pytest.mark.parametrize("p", [0.5, 0.655, 0.841, 0.977])
def test_the_sequence_is_wrong_with_probability_alpha_at_most_over_all_times(p: float) -> None:
    """4,000 paths of 600 samples, looked at after every one: the share that ever excludes the truth."""
    paths, length = 4000, 600
    rng = np.random.default_rng(round(1000 * p))
    successes = (rng.random((paths, length)) < p).cumsum(1)
    n = np.arange(1, length + 1)
    edges = [most_successes(int(each), p) for each in n]
    least = [least_successes(int(each), p) for each in n]
    above = (successes >= np.array(edges)).any(1)
    below = (successes <= np.array(least)).any(1)
    share = (above | below).mean()
    assert share <= ALPHA + 3 * math.sqrt(ALPHA / paths)
    assert share > 0.2 * ALPHA  # the bound is not empty


def most_successes(n: int, p: float) -> int:
    """The fewest successes of n at which the probability is said to exceed p, n + 1 if none."""
    return next((k for k in range(math.floor(n * p), n + 1) if exceeds(k, n, p, ALPHA)), n + 1)


def least_successes(n: int, p: float) -> int:
    """The most successes of n at which the probability is said to be below p, -1 if none."""
    return next((k for k in range(math.ceil(n * p), -1, -1) if falls_below(k, n, p, ALPHA)), -1)


def test_radii_are_those_of_the_theorem() -> None:
    assert certified_radius(0.5, 1.0) == 0
    assert certified_radius(norm.cdf(1.5), 0.5) == pytest.approx(0.75)
    assert needed_probability(0.25, 0.25) == pytest.approx(norm.cdf(1))
    reach = reachable_radius(1000, 0.001, 0.25)
    assert exceeds(1000, 1000, needed_probability(reach - 1e-6, 0.25), 0.001)
    assert not exceeds(1000, 1000, needed_probability(reach + 1e-6, 0.25), 0.001)


def test_the_bound_for_the_set_counts_the_wrong_certificates() -> None:
    assert most_wrong(500, 0.001, 0.999) == 4
    assert binom.sf(4, 500, 0.001) <= 0.001 < binom.sf(3, 500, 0.001)
    assert set_lower(250, 500, 0.001, 0.999) == pytest.approx(246 / 500)
    assert set_lower(1, 500, 0.001, 0.999) == 0
