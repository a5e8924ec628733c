"""Consistency functions: preconditioning, noise levels, one-step generation (Song et al. 2023, arXiv 2303.01469)."""

from __future__ import annotations

import torch
from torch import Tensor

from cmap_cli.core.sizes import at_any_size
from cmap_cli.core.types import ConsistencyModel, HasDenoiser

SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
SIGMA_DATA = 0.5


def c_skip(sigma: Tensor, sigma_min: float = SIGMA_MIN, sigma_data: float = SIGMA_DATA) -> Tensor:
    """c_skip(t) = s² / ((t − t_min)² + s²); 1 at t_min."""
    return sigma_data**2 / ((sigma - sigma_min) ** 2 + sigma_data**2)


def c_out(sigma: Tensor, sigma_min: float = SIGMA_MIN, sigma_data: float = SIGMA_DATA) -> Tensor:
    """c_out(t) = (t − t_min)·s / √(t² + s²); 0 at t_min, which is the boundary condition f(x, t_min) = x."""
    return (sigma - sigma_min) * sigma_data / (sigma**2 + sigma_data**2).sqrt()


def c_in(sigma: Tensor, sigma_data: float = SIGMA_DATA) -> Tensor:
    """c_in(t) = 1 / √(t² + s²): what the network sees has unit variance at every level."""
    return 1 / (sigma**2 + sigma_data**2).sqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """c_noise(t) = ¼·ln t: the noise level as the network sees it."""
    return sigma.log() / 4


def to_model_range(x: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]."""
    return 2 * x - 1


def to_unit_range(x: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1]."""
    return (x + 1) / 2


def karras_levels(
    n: int = 18, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> list[float]:
    """sigma_i = (t_min^(1/ρ) + i/(n − 1) · (t_max^(1/ρ) − t_min^(1/ρ)))^ρ, i = 0 … n − 1 (Karras et al. 2022).

    Returns:
        n noise levels from t_min up to t_max.

    Raises:
        ValueError: fewer than two levels.
    """
    if n < 2:
        raise ValueError(f"a grid of noise levels needs two at least, not {n}")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(low + index / (n - 1) * (high - low)) ** rho for index in range(n)]


def consistency(model: ConsistencyModel, images: Tensor, sigma: float, labels: Tensor | None = None) -> Tensor:
    """f(x_t, t), one call of the network for all images.

    Args:
        model: the consistency model.
        images: x_t, (..., C, H, W).
        sigma: t, the same for all images.
        labels: the classes for a class-conditional model, (...), int64.

    Returns:
        Images (..., C, H, W) not yet clipped to [-1, 1], of the dtype of ``images``.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    levels = torch.full((len(flat),), sigma, device=flat.device, dtype=flat.dtype)
    conditions = () if labels is None else (labels.reshape(-1),)
    generated = at_any_size(model, lambda x: model(x, levels, *conditions), flat)
    return generated.to(flat.dtype).reshape(images.shape)


def decode(model: ConsistencyModel, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """f(z, t_max) of latents (..., C, H, W), see :func:`consistency`."""
    return consistency(model, latents, model.sigma_max, labels)


def denoise(model: HasDenoiser, images: Tensor, sigma: float) -> Tensor:
    """E[x_0 | x_t] of images (..., C, H, W) at the noise level sigma, in [-1, 1] but not clipped, of their dtype."""
    flat = images.reshape(-1, *images.shape[-3:])
    levels = torch.full((len(flat),), sigma, device=flat.device, dtype=flat.dtype)
    denoised = at_any_size(model, lambda x: model.denoise(x, levels), flat)
    return denoised.to(images.dtype).reshape(images.shape)


def clip(images: Tensor, *, straight_through: bool = False) -> Tensor:
    """clip(x̂, −1, 1); ``straight_through`` leaves the clip out of the gradient."""
    if straight_through:
        return images + (images.clamp(-1, 1) - images).detach()
    return images.clamp(-1, 1)


def generate(
    model: ConsistencyModel, latents: Tensor, *, labels: Tensor | None = None, straight_through: bool = False
) -> Tensor:
    """x̂ = clip(f(z, t_max), −1, 1): :func:`decode`, then :func:`clip`, to images (..., C, H, W) in [-1, 1]."""
    return clip(decode(model, latents, labels), straight_through=straight_through)
