"""The purification objective of CMAP (arXiv 2412.08394), one function per term, one value per image or candidate.

L = scale · [ Σ_k |x̂_k − y|₁ + λ_s · Σ_k (−S(x̂_k, y)) + λ_d · K · (‖mean_k z‖² + ‖std_k z − t_max‖²) ]
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cmap_cli.core.adam import TINY
from cmap_cli.core.consistency import to_unit_range
from cmap_cli.core.types import Objective, PerceptualDistance


def pixel_distance(x_hat: Tensor, y: Tensor, absolute: Callable[[Tensor], Tensor] = torch.abs) -> Tensor:
    """|x̂_k − y|₁, summed over pixels and channels.

    Args:
        x_hat: candidates in [-1, 1], (B, K, C, H, W).
        y: targets in [-1, 1], (B, C, H, W).
        absolute: |·|; :mod:`cmap_cli.defenses.unroll` passes one that has a second derivative.

    Returns:
        (B, K).
    """
    return absolute(x_hat - y.unsqueeze(1)).sum((-3, -2, -1))


def latent_distribution_distance(latents: Tensor, sigma_max: float) -> Tensor:
    """‖mean_k(z)‖² + ‖std_k(z) − t_max‖², the latent distribution consistency constraint.

    Mean and unbiased standard deviation are taken over the K latents of one image, per coordinate. With K = 1 there
    is no standard deviation and only the mean's part remains.

    Args:
        latents: z, (B, K, C, H, W).
        sigma_max: t_max, the standard deviation of the prior.

    Returns:
        (B,), summed over coordinates.
    """
    mean = latents.mean(1)
    mean_part = mean.square().flatten(1).sum(1)
    if latents.shape[1] == 1:
        return mean_part
    # torch.std over an axis that is not the last is several times slower, and takes the mean again
    variance = (latents - mean.unsqueeze(1)).square().sum(1) / (latents.shape[1] - 1)
    std = variance.clamp(min=TINY).sqrt()
    return mean_part + (std - sigma_max).square().flatten(1).sum(1)


def purification_objective(
    x_hat: Tensor,
    latents: Tensor,
    y: Tensor,
    perceptual_distance: PerceptualDistance,
    *,
    sigma_max: float,
    scale: float,
    perceptual_weight: float,
    latent_weight: float,
    absolute: Callable[[Tensor], Tensor] = torch.abs,
) -> Objective:
    """L and its terms, one value per image.

    Args:
        x_hat: what the latents generate, in [-1, 1], (B, K, C, H, W).
        latents: z, (B, K, C, H, W).
        y: targets in [-1, 1], (B, C, H, W).
        perceptual_distance: distance of candidates in [0, 1] to the targets; −S in the paper.
        sigma_max: t_max.
        scale: factor of the whole objective.
        perceptual_weight: λ_s.
        latent_weight: λ_d.
        absolute: of the pixel term, see :func:`pixel_distance`.
    """
    pixel = pixel_distance(x_hat, y, absolute)
    perceptual = perceptual_distance(to_unit_range(x_hat))
    latent = latent_distribution_distance(latents, sigma_max)
    num_latents = latents.shape[1]
    restoration = torch.sum(pixel + perceptual_weight * perceptual, dim=1)
    total = scale * (restoration + latent_weight * num_latents * latent)
    return Objective(pixel, perceptual, latent, total)
