"""The exact consistency function of a Gaussian: no training beyond a mean and a covariance."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmap_cli.errors import WeightsError
from cmap_cli.models.networks.state import Description, NotNegative, check_tensors, typed

KIND = "gaussian"


class GaussianDescription(Description, frozen=True, kw_only=True):
    """The description that is stored with the tensors of a Gaussian.

    Attributes:
        residual: standard deviation of all directions that are not listed.
    """

    kind: Literal["gaussian"]
    residual: NotNegative


class GaussianConsistency(nn.Module):
    """For data N(μ, Σ) the probability-flow ODE has a closed form; so has its consistency function.

    In each principal direction v_i with standard deviation s_i

        f(x, t) = μ + Σ_i v_i · √((s_i² + t_min²) / (s_i² + t²)) · v_iᵀ(x − μ),

    and every direction that is not listed has the standard deviation ``residual``: with residual 0 the model
    generates inside the span of its directions only. f(x, t_min) = x exactly, whatever the rounding of the v_i.

    Args:
        mean: μ, (C, H, W), in [-1, 1].
        directions: orthonormal rows v_i, (n, C·H·W).
        stds: s_i, (n,).
        residual: standard deviation of all other directions.
        sigma_min: t_min.
        sigma_max: t_max.
    """

    mean: Tensor
    directions: Tensor
    stds: Tensor
    invertible = True

    def __init__(
        self,
        mean: Tensor,
        directions: Tensor,
        stds: Tensor,
        residual: float = 0.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        # column by column in memory: products with few latents are 1.4 times as quick
        self.register_buffer("directions", directions.float().T.contiguous().T)
        self.register_buffer("stds", stds.float())
        self.residual = residual
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.mean.shape
        return channels, height, width

    def description(self) -> dict[str, object]:
        """The fields of :class:`GaussianDescription`."""
        return {"kind": KIND, "residual": self.residual, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}

    def tensors(self) -> dict[str, Tensor]:
        """μ and s_i in float32, v_i in float16."""
        return {"mean": self.mean, "directions": self.directions.half(), "stds": self.stds}

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        """v_i, (n, C·H·W), and s_i, (n,)."""
        return self.directions, self.stds

    def gains(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """√((s² + t_min²) / (s² + t²)) for the listed directions, (N, n), and for all others, (N, 1)."""

        def gain(std: Tensor) -> Tensor:
            return ((std**2 + self.sigma_min**2) / (std**2 + sigma[:, None] ** 2)).sqrt()

        return gain(self.stds), gain(torch.full_like(self.stds[:1], self.residual))

    def wiener_gains(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """s² / (s² + t²), the posterior mean's gains, shapes as of :meth:`gains`."""

        def gain(std: Tensor) -> Tensor:
            return std**2 / (std**2 + sigma[:, None] ** 2)

        return gain(self.stds), gain(torch.full_like(self.stds[:1], self.residual))

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """X − μ flattened, (N, C·H·W), and its coordinates v_iᵀ(x − μ), (N, n)."""
        centred = (x - self.mean).flatten(1)
        return centred, centred @ self.directions.T

    def compose(self, centred: Tensor, coordinates: Tensor, gains: tuple[Tensor, Tensor]) -> Tensor:
        """μ plus every direction times its gain, (N, C, H, W)."""
        listed, others = gains
        flat = others * centred + ((listed - others) * coordinates) @ self.directions
        return self.mean + flat.reshape(-1, *self.mean.shape)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, C, H, W) and (N,) -> (N, C, H, W)."""
        with full_precision(x):
            return self.compose(*self.coordinates(x), self.gains(sigma))

    def estimates(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """f(x, t) and the posterior mean E[x_0 | x_t] (Wiener estimate), shapes as of :meth:`forward`."""
        with full_precision(x):
            centred, coordinates = self.coordinates(x)
            return (
                self.compose(centred, coordinates, self.gains(sigma)),
                self.compose(centred, coordinates, self.wiener_gains(sigma)),
            )

    def invert(self, x: Tensor, z: Tensor) -> Tensor:
        """The latents closest to z with f(·, t_max) = x along the listed directions; along all others they are z.

        Args:
            x: (B, C, H, W).
            z: (B, K, C, H, W).
        """
        with full_precision(x):
            gains, _ = self.gains(x.new_tensor([self.sigma_max]))
            wanted = self.coordinates(x)[1] / gains
            held = (z - self.mean).flatten(2) @ self.directions.T
            return z + ((wanted[:, None] - held) @ self.directions).reshape(z.shape)


def restore(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> GaussianConsistency:
    """The Gaussian of a stored description and its tensors ``mean``, ``directions`` and ``stds`` (WeightsError)."""
    fields = typed(description, GaussianDescription)
    return build_gaussian(tensors, fields.residual, fields.sigma_min, fields.sigma_max)


def build_gaussian(
    tensors: Mapping[str, Tensor], residual: float, sigma_min: float, sigma_max: float
) -> GaussianConsistency:
    """The Gaussian of checked tensors (WeightsError if they are not those of a Gaussian)."""
    mean = tensors.get("mean")
    if mean is None or mean.ndim != 3:
        raise WeightsError(f"the mean has the shape {None if mean is None else list(mean.shape)}, not (C, H, W)")
    directions = tensors.get("directions")
    count = len(directions) if directions is not None and directions.ndim else 0
    check_tensors(tensors, {"mean": mean.shape, "directions": (count, mean.numel()), "stds": (count,)})
    if not count:
        raise WeightsError("the model has no principal directions")
    if bool((tensors["stds"] < 0).any()):
        raise WeightsError("the model has negative standard deviations")
    return GaussianConsistency(mean, tensors["directions"], tensors["stds"], residual, sigma_min, sigma_max)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Compute without autocast, because latents and gains span five orders of magnitude."""
    return torch.autocast(x.device.type, enabled=False)
