"""Fit the closed-form Gaussian consistency model: a mean, a covariance, an eigendecomposition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cmap_cli.core.consistency import to_model_range
from cmap_cli.models.networks.gaussian import GaussianConsistency

CHUNK = 4096


def fit_gaussian(images: Tensor, directions: int, *, keep_residual: bool = False) -> GaussianConsistency:
    """The Gaussian consistency model of a set of images.

    Args:
        images: uint8, (N, C, H, W).
        directions: how many leading principal directions to keep, at most C·H·W.
        keep_residual: give all other directions their mean variance (the maximum-likelihood model of this rank,
            Tipping and Bishop 1999) instead of none. Without it the model generates, and so purifies, within the
            span of its directions.

    Returns:
        The model; directions are rounded to float16, as they are stored.
    """
    if directions < len(images) <= images[0].numel() // 2:
        mean, variances, vectors = components_of_images(images)
    else:
        mean, variances, vectors = components_of_covariance(images)
    rest = variances[directions:]
    residual = float(rest.mean().sqrt()) if keep_residual and len(rest) else 0.0
    return GaussianConsistency(
        mean.reshape(images.shape[1:]),
        vectors.T[:directions].half(),
        variances[:directions].sqrt(),
        residual=residual,
    )


def components_of_images(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), variances (D,) in falling order and directions (D, N), by the images' singular values."""
    x = to_model_range(images.flatten(1).float() / 255).double()
    mean = x.mean(0)
    _, deviations, rows = torch.linalg.svd((x - mean) / len(x) ** 0.5, full_matrices=False)
    return mean, functional.pad(deviations.square(), (0, x.shape[1] - len(x))), rows.T


def components_of_covariance(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), variances (D,) in falling order and directions (D, D), by the covariance."""
    size = images[0].numel()
    total = torch.zeros(size, dtype=torch.float64)
    second_moment = torch.zeros(size, size, dtype=torch.float64)
    for chunk in torch.split(images, CHUNK):
        x = to_model_range(chunk.flatten(1).float() / 255)
        total += x.double().sum(0)
        second_moment += (x.T @ x).double()
    mean = total / len(images)
    variances, vectors = torch.linalg.eigh(second_moment / len(images) - torch.outer(mean, mean))
    return mean, variances.flip(0).clamp_min(0), vectors.flip(1)
