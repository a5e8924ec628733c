"""A change of variables that lets Adam see every direction of the latent space at the same scale. Not in the paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from cmap_cli.core.types import ConsistencyModel


@runtime_checkable
class HasPrincipalDirections(Protocol):
    """A model that knows the principal directions of its images."""

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        """Orthonormal rows v_i, (n, C·H·W), and the images' standard deviations s_i along them, (n,), falling."""
        ...


def spectral_preconditioner(model: ConsistencyModel, limit: float) -> Callable[[Tensor], Tensor]:
    """P = Σ_i p_i·v_i v_iᵀ + p_n·(I − Σ_i v_i v_iᵀ), p_i = min(s_1 / s_i, limit); the identity if limit is 0.

    A consistency model moves an image along v_i by about s_i / t_max times what the latent moves. Natural images have
    s_1 / s_n of 100 and more, so plain Adam restores coarse structure quickly and detail very slowly. With latents
    z = z_0 + P·v and Adam on v, all directions up to the limit move at the same speed.

    Args:
        model: the consistency model; without principal directions P is the identity.
        limit: the largest p_i.

    Returns:
        The map v -> P·v for tensors (B, K, C, H, W).
    """
    if limit == 0 or not isinstance(model, HasPrincipalDirections):
        return lambda v: v
    directions, stds = model.principal_directions()
    gains = (stds[0] / stds).clamp(max=limit)

    def apply(v: Tensor) -> Tensor:
        flat = v.flatten(2)
        with torch.autocast(v.device.type, enabled=False):
            scaled = gains[-1] * flat + ((gains - gains[-1]) * (flat @ directions.T)) @ directions
        return scaled.reshape(v.shape)

    return apply
