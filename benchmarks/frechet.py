"""The Fréchet distance between two sets of feature vectors, each taken for a Gaussian (Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """What a Gaussian is made of.

    Attributes:
        mean: μ, (D,), float64.
        covariance: Σ, (D, D), float64, symmetric and positive semi-definite.
    """

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of feature vectors (N, D), on the CPU: not every accelerator has float64.

    Raises:
        ValueError: they are no matrix, or fewer than two.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"moments need features (N, D) with N of 2 or more, not {tuple(features.shape)}")
    x = features.detach().cpu().double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """d² = ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (√Σ_a Σ_b √Σ_a)^½, arXiv 1706.08500; in squared units of the features.

    √Σ_a Σ_b √Σ_a has the eigenvalues of Σ_a Σ_b and is symmetric, so that eigh serves where Σ_a is singular too, as it
    is with fewer vectors than features.

    Raises:
        ValueError: the two have different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"{len(a.mean)} and {len(b.mean)} features cannot be compared")
    root = symmetric_root(a.covariance)
    product = root @ b.covariance @ root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    root_trace = eigenvalues.clamp_min(0).sqrt().sum()  # rounding takes zeros below 0
    means = (a.mean - b.mean).square().sum()
    return float(means + a.covariance.trace() + b.covariance.trace() - 2 * root_trace)


def symmetric_root(matrix: Tensor) -> Tensor:
    """The positive semi-definite square root of a positive semi-definite matrix (D, D)."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * eigenvalues.clamp_min(0).sqrt()) @ vectors.T
    return root
