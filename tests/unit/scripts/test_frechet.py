"""The Fréchet distance against closed forms, and its moments against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from benchmarks.frechet import Moments, frechet_distance, moments, symmetric_root
from torch import Tensor

D = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: Tensor, covariance: Tensor, n: int, seed: int) -> Tensor:
    """n vectors whose sample mean and unbiased sample covariance are exactly these."""
    x = normal(n, len(mean), seed=seed)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def test_gaussians_with_common_principal_directions() -> None:
    """Σ_a and Σ_b commute: d² = ‖μ_a − μ_b‖² + Σ_i (s_i − r_i)²."""
    directions = torch.linalg.qr(normal(D, D)).Q
    s, r = normal(D, seed=1).abs() + 0.1, normal(D, seed=2).abs() + 0.1
    mean_a, mean_b = normal(D, seed=3), normal(D, seed=4)
    a = moments(with_moments(mean_a, directions * s**2 @ directions.T, 40, seed=5))
    b = moments(with_moments(mean_b, directions * r**2 @ directions.T, 70, seed=6))
    expected = float((mean_a - mean_b).square().sum() + (s - r).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


def test_two_dimensional_gaussians_with_different_principal_directions() -> None:
    """Of a 2×2 matrix tr √M = √(tr M + 2 √det M), and tr and det of M are those of Σ_a Σ_b."""
    a = torch.tensor([[2.0, 0.8], [0.8, 0.5]], dtype=torch.float64)
    b = torch.tensor([[0.7, -0.3], [-0.3, 3.0]], dtype=torch.float64)
    assert not torch.allclose(a @ b, b @ a)
    product = a @ b
    root_trace = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    expected = 0.25 + float(a.trace() + b.trace()) - 2 * root_trace
    mean_a, mean_b = torch.zeros(2, dtype=torch.float64), torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert frechet_distance(Moments(mean_a, a), Moments(mean_b, b)) == pytest.approx(expected, rel=1e-12)


def test_a_singular_covariance() -> None:
    """Σ_a = v vᵀ against s² I: d² = ‖v‖² + D s² − 2 s ‖v‖."""
    v, s = normal(D), 0.7
    zero = torch.zeros(D, dtype=torch.float64)
    a, b = Moments(zero, torch.outer(v, v)), Moments(zero, s**2 * torch.eye(D, dtype=torch.float64))
    length = float(v.norm())
    for first, second in ((a, b), (b, a)):
        assert frechet_distance(first, second) == pytest.approx(length**2 + D * s**2 - 2 * s * length, rel=1e-6)


def test_a_set_has_no_distance_to_itself_even_with_fewer_vectors_than_features() -> None:
    few = moments(normal(4, 30))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


def test_moments_are_those_of_numpy_in_float64() -> None:
    features = (normal(50, D) + 1000).float()  # a mean that float32 sums would lose digits of
    found = moments(features)
    x = features.numpy().astype(np.float64)
    np.testing.assert_allclose(found.mean.numpy(), x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(x, rowvar=False), rtol=1e-9)


def test_the_root_is_symmetric_and_squares_to_the_matrix() -> None:
    x = normal(D, 3)
    matrix = x @ x.T
    root = symmetric_root(matrix)
    torch.testing.assert_close(root @ root, matrix, rtol=0, atol=1e-12)
    torch.testing.assert_close(root, root.T, rtol=0, atol=1e-12)


def test_too_few_vectors_and_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        moments(normal(1, D))
    with pytest.raises(ValueError, match="6 and 5 features"):
        frechet_distance(moments(normal(9, 6)), moments(normal(9, 5)))
