"""The statistics of randomised smoothing: bounds of a probability, radii, and bounds for a whole set of images."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr, betaincinv, betaln, ndtr, ndtri

SMALLEST = 1e-300


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """The α-quantile of Beta(k, n − k + 1): P(the bound exceeds p) ≤ α for k ~ Binomial(n, p) (Clopper, Pearson 1934).

    It is valid for a number of samples n that was fixed in advance.
    """
    return float(betaincinv(successes, n - successes + 1, alpha)) if successes else 0.0


def clopper_pearson_upper(successes: int, n: int, alpha: float) -> float:
    """The (1 − α)-quantile of Beta(k + 1, n − k): P(the bound is below p) ≤ α."""
    return float(betaincinv(successes + 1, n - successes, 1 - alpha)) if successes < n else 1.0


def log_wealth(successes: int, n: int, p: float) -> float:
    """Log of ∏ q_i(x_i) / p(x_i), the wealth of a gambler who bets with the KT estimator against odds set by p.

    The estimator of Krichevsky and Trofimov (1981) predicts success number i + 1 with q = (k_i + ½) / (i + 1). Its
    product is a Beta integral, so that the wealth after n samples with k successes is

        W_n(p) = B(k + ½, n − k + ½) / B(½, ½) / (p^k (1 − p)^(n−k)).

    If p is the true probability, W is a martingale that starts at 1 and is never negative. By Ville's inequality
    P(W_n(p) ≥ 1/α for any n) ≤ α: the p with W_n(p) < 1/α are a confidence set that holds for all n at once.

    Args:
        successes: k.
        n: samples so far.
        p: strictly between 0 and 1.
    """
    numerator = betaln(successes + 0.5, n - successes + 0.5) - betaln(0.5, 0.5)
    return float(numerator - successes * math.log(p) - (n - successes) * math.log1p(-p))


def exceeds(successes: int, n: int, p: float, alpha: float) -> bool:
    """Whether the probability is known to be above p: k/n > p, and W_n(p) ≥ 1/α.

    W_n falls on [0, k/n], so all smaller p are excluded, too. If the true probability is q, the result can be true for
    a p ≥ q only if W_n(q) ≥ 1/α. This has probability at most α, for all p and all n together.
    """
    return successes > n * p and log_wealth(successes, n, p) >= -math.log(alpha)


def falls_below(successes: int, n: int, p: float, alpha: float) -> bool:
    """Whether the probability is known to be below p: k/n < p, and W_n(p) ≥ 1/α. As :func:`exceeds`."""
    return successes < n * p and log_wealth(successes, n, p) >= -math.log(alpha)


def sequence_lower(successes: int, n: int, alpha: float) -> float:
    """The lower end of the confidence set {p : W_n(p) < 1/α}; its maximum over all n so far is also a lower bound."""
    if successes == 0:
        return 0.0
    peak = min(successes / n, 1 - 1e-16)
    if log_wealth(successes, n, peak) >= -math.log(alpha):  # cannot be: W at its least is at most 1
        return peak
    from scipy.optimize import brentq  # slow to import

    return float(
        brentq(lambda p: log_wealth(successes, n, p) + math.log(alpha), SMALLEST, peak, xtol=1e-12, rtol=1e-12)
    )


def certified_radius(lower: float, sigma: float) -> float:
    """R = σ·Φ⁻¹(p): no change of ℓ2 norm below R changes the smoothed class (theorem 1 of Cohen et al. 2019).

    Args:
        lower: a lower bound of the probability of the class under noise. At one half or less the radius is 0.
        sigma: standard deviation of the noise, for images in [0, 1].
    """
    return sigma * float(ndtri(lower)) if lower > 0.5 else 0.0


def needed_probability(radius: float, sigma: float) -> float:
    """Φ(r/σ): the probability must exceed this value for the radius r."""
    return float(ndtr(radius / sigma))


def reachable_radius(samples: int, alpha: float, sigma: float) -> float:
    """The radius that the confidence sequence certifies after ``samples`` samples that are all successes."""
    return certified_radius(sequence_lower(samples, samples, alpha), sigma)


def most_wrong(n: int, alpha: float, confidence: float) -> int:
    """The least m for which more than m of n certificates are wrong with probability 1 − confidence at most.

    Each certificate is wrong with probability α at most, independently: their number is at most Binomial(n, α).
    """
    return int(np.searchsorted(bdtr(np.arange(n + 1), n, alpha), confidence))


def set_lower(certified: int, n: int, alpha: float, confidence: float) -> float:
    """A lower bound of the true share of the images on which the smoothed classifier is correct and robust.

    It holds only for these n images, with probability ``confidence``.
    """
    return max(0, certified - most_wrong(n, alpha, confidence)) / n
