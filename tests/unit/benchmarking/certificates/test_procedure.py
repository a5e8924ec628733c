"""From classes of samples to decisions; how often they are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cmap_cli.benchmarking.certificates.bounds import clopper_pearson_lower
from cmap_cli.benchmarking.certificates.procedure import LOOK, Plan, Tally

SEQUENTIAL = Plan("sequential", 32, 1000, 0.001, (0.1, 0.25))
COHEN = Plan("cohen", 100, 2000, 0.001, (0.25,))


def play(tally: Tally, classes: list[int], most: int = 10_000) -> Tally:
    """Feed a tally its samples in pieces of at most ``most``."""
    start = 0
    while wanted := tally.wanted():
        count = min(wanted, most)
        tally.observe(classes[start : start + count])
        start += count
    return tally


def draw(p: float, seed: int, n: int = 3000) -> list[int]:
    """Samples that are class 7 with probability p, else class 2."""
    return np.where(np.random.default_rng(seed).random(n) < p, 7, 2).tolist()


def test_cohen_takes_all_its_samples_and_abstains_near_one_half() -> None:
    classes = draw(0.9, 0)
    tally = play(Tally(COHEN, 0.25), classes)
    assert (tally.taken, tally.trials, tally.selected) == (2100, 2000, 7)
    assert tally.successes == classes[100:2100].count(7)
    assert tally.lower == clopper_pearson_lower(tally.successes, 2000, 0.001)
    assert tally.radius == pytest.approx(0.25 * norm.ppf(tally.lower))
    assert tally.decisions == {0.25: "certified"}
    unsure = play(Tally(COHEN, 0.25), draw(0.5, 1))
    assert (unsure.predicted, unsure.radius, unsure.decisions) == (None, 0.0, {0.25: "undecided"})


def test_ties_of_the_selection_go_to_the_lower_class() -> None:
    tally = Tally(SEQUENTIAL, 0.25)
    tally.observe([7, 2] * 16)
    assert tally.selected == 2


def test_sequential_stops_when_all_is_decided() -> None:
    sure = play(Tally(SEQUENTIAL, 0.25), [7] * 2000)
    assert sure.decisions == {0.1: "certified", 0.25: "certified"}
    assert sure.trials < 100
    assert sure.radius >= 0.25
    hopeless = play(Tally(SEQUENTIAL, 0.25), draw(0.55, 3))
    assert hopeless.decisions[0.25] == "refuted"
    between = play(Tally(SEQUENTIAL, 0.25), draw(0.84, 5))
    assert between.decisions == {0.1: "certified", 0.25: "undecided"}
    assert between.trials == 1000


def test_a_radius_out_of_reach_costs_no_samples() -> None:
    plan = Plan("sequential", 32, 200, 0.001, (0.1, 0.5))
    tally = play(Tally(plan, 0.12), [7] * 400)
    assert tally.decisions == {0.1: "certified", 0.5: "out of reach"}
    assert tally.trials < 200
    only = play(Tally(Plan("sequential", 32, 200, 0.001, (0.5,)), 0.12), [7] * 400)
    assert (only.trials, only.decisions) == (LOOK, {0.5: "out of reach"})


@pytest.mark.parametrize("most", [1, 5, 64])
def test_a_certificate_does_not_depend_on_batches_of_samples(most: int) -> None:
    for plan in (SEQUENTIAL, COHEN):
        for p in (0.5, 0.7, 0.95):
            classes = draw(p, 11)
            assert play(Tally(plan, 0.25), classes, most) == play(Tally(plan, 0.25), classes)


@pytest.mark.parametrize("p", [0.6, float(norm.cdf(0.4)), float(norm.cdf(1))])
def test_certificates_are_wrong_no_more_often_than_alpha(p: float) -> None:
    """700 images with alpha 0.05; the hardest are those whose true radius is the one that is asked for."""
    plan = Plan("sequential", 8, 400, 0.05, (0.1, 0.25))
    truth = 0.25 * norm.ppf(p)
    wrong = 0
    for seed in range(700):
        tally = play(Tally(plan, 0.25), draw(p, seed, 500))
        if tally.selected == 7:
            false = any(radius >= truth for radius, each in tally.decisions.items() if each == "certified")
            wrong += false or tally.radius > truth
    assert wrong <= 700 * 0.05 + 3 * (700 * 0.05) ** 0.5
