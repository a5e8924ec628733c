"""Whether attacks break certificates, on votes drawn from a classifier whose probabilities are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from cmap_cli.benchmarking.certificates.violations import (
    check_certificates,
    image_certificate,
    needed_after,
)
from cmap_cli.benchmarking.documents import BenchmarkRecord

SIGMA, SAMPLES, DRAWS, VALUES = 0.25, 100, 5, 192


def votes(p: float, rng: np.random.Generator) -> tuple[dict[str, int], ...]:
    """Votes of re-evaluations with the probability p of class 3, the rest class 1."""
    counts = rng.binomial(SAMPLES, p, DRAWS).tolist()
    return tuple({"3": count, "1": SAMPLES - count} for count in counts)


def record(image: int, found: tuple[dict[str, int], ...], l2: float | None = None) -> BenchmarkRecord:
    about = {} if l2 is None else {"norm": "L2", "eps": "0.2", "eps_value": 0.2, "access": "white-box", "item": "pgd"}
    return BenchmarkRecord(
        image=image, key=f"x/{image}", label=3, attack="clean" if l2 is None else "pgd", defense="smoothed",
        undefended=3, draws=(3,) * DRAWS, votes=found, l2=l2, **about,  # type: ignore[arg-type]
    )  # fmt: skip


def linear(distance: float, offset: float = 0.3) -> float:
    """The probability of class 3 of a linear classifier whose boundary is ``offset`` away, after a step towards it."""
    return float(norm.cdf((offset - distance) / SIGMA))


def test_the_strongest_attack_on_a_linear_classifier_violates_nothing() -> None:
    """It is as strong as theorem 1 allows: 300 runs of ten images, each attacked at three distances."""
    fired = comparisons = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        records = [record(image, votes(linear(0), rng)) for image in range(10)]
        records += [record(image, votes(linear(d), rng), d) for image in range(10) for d in (0.05, 0.1, 0.2)]
        found = check_certificates(records, SIGMA, VALUES)
        fired += bool(found.violations)
        comparisons += found.comparisons
    assert comparisons > 5000
    assert fired <= 3


def test_an_attack_stronger_than_the_theorem_allows_is_a_violation() -> None:
    rng = np.random.default_rng(0)
    records = [record(0, votes(0.95, rng)), record(0, votes(0.3, rng), 0.1)]
    found = check_certificates(records, SIGMA, VALUES)
    assert (found.images, found.certified, found.comparisons) == (1, 1, 1)
    assert "x/0 is certified for ℓ2" in found.violations[0]
    assert found.shares == (("L2 0.2", 1, 1),)
    outside = check_certificates([records[0], record(0, votes(0.3, rng), 0.9)], SIGMA, VALUES)
    assert (outside.comparisons, outside.violations) == (0, ())


def test_the_class_is_chosen_by_other_samples_than_the_bound() -> None:
    first, rest = {"1": 60, "3": 40}, {"3": 100}
    found = image_certificate((first, rest, rest), 3, SIGMA, 0.001)
    assert found is not None
    assert (found.selected, found.lower, found.radius, found.correct) == ("1", 0.0, 0.0, False)
    assert image_certificate((first,), 3, SIGMA, 0.001) is None


def test_the_least_probability_at_a_distance() -> None:
    assert needed_after(norm.cdf(1.2), 0.25, 0.25) == pytest.approx(norm.cdf(0.2))
