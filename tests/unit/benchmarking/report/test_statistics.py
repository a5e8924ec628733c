"""Intervals against scipy, votes and accuracies against answers known by hand."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from cmap_cli.benchmarking.report.statistics import (
    accuracy,
    draw_outcome,
    majority,
    rate,
    right_every_time,
    wilson_interval,
    worst_outcome,
)


def test_wilson_interval_of_eight_in_ten() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 20, 500, 10000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson_interval_is_scipys(n: int, confidence: float) -> None:
    for successes in {0, 1, n // 3, n // 2, n - 1, n}:
        expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_ends_at_zero_and_one_exactly() -> None:
    assert wilson_interval(0, 30)[0] == 0.0
    assert wilson_interval(30, 30)[1] == 1.0


@pytest.mark.parametrize(("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0)])
def test_counts_that_make_no_sense_are_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(successes, n, confidence)


def test_a_rate_without_images_is_none() -> None:
    assert rate(0, 0) is None
    assert accuracy([]) is None


@pytest.mark.parametrize(
    ("draws", "winner"), [([3], 3), ([1, 2, 2], 2), ([1, 2], None), ([5, 1, 1, 5, 2], None), ([], None), ([0, 0, 7], 0)]
)
def test_majority_has_no_winner_in_a_tie(draws: list[int], winner: int | None) -> None:
    assert majority(draws) == winner


def test_a_tie_is_wrong_whatever_the_label() -> None:
    assert not draw_outcome([1, 2], label=1).voted_right
    assert not draw_outcome([1, 2], label=2).voted_right


def test_vote_worst_of_n_and_average() -> None:
    found = accuracy(
        [draw_outcome(draws, label=1) for draws in ([1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 2], [2, 2, 2, 2])]
    )
    assert found is not None
    assert (found.vote.right, found.vote.n) == (2, 4)
    assert found.worst_of_n.right == 1
    assert found.average == pytest.approx((1 + 0.75 + 0.5 + 0) / 4)
    assert found.draws == (4,)


def test_average_weighs_images_alike_whatever_their_draws() -> None:
    found = accuracy([draw_outcome([1], label=1), draw_outcome([2, 2, 2], label=1)])
    assert found is not None
    assert found.average == 0.5
    assert found.draws == (1, 3)


def test_the_worst_case_takes_the_worst_in_each_respect() -> None:
    one, other = draw_outcome([1, 1, 1, 2, 2], label=1), draw_outcome([1, 1, 1, 1, 1], label=1)
    both = worst_outcome([one, other])
    assert (both.voted_right, both.always_right, both.mean) == (True, False, 0.6)
    assert worst_outcome([one, other, draw_outcome([2, 2, 2, 2, 2], label=1)]).voted_right is False
    assert worst_outcome([other]) == other


def test_accuracy_over_submissions_is_that_of_drawing_without_replacement() -> None:
    outcomes = [draw_outcome([1] * right + [0] * (5 - right), 1) for right in (5, 3, 0)]
    assert right_every_time(outcomes, 1) == pytest.approx((1 + 3 / 5 + 0) / 3)
    assert right_every_time(outcomes, 2) == pytest.approx((1 + 3 / 10 + 0) / 3)  # 3 pairs of 10 are right
    assert right_every_time(outcomes, 5) == pytest.approx(1 / 3)
