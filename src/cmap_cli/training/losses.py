"""What the U-Net is trained on: denoising first, then consistency along trajectories."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from cmap_cli.choices import LossWeight
from cmap_cli.core.consistency import SIGMA_DATA


class Trainable(Protocol):
    """f and, from the same network, an estimate of the posterior mean, see :mod:`cmap_cli.models.networks.unet`."""

    sigma_min: float

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor: ...


SNR_LIMIT = 5.0


def weight_at(sigma: Tensor, kind: LossWeight) -> Tensor:
    """w(t) of the denoiser's squared error, (N,) -> (N,).

    "edm" is (t² + s²)/(t·s)² (Karras et al. 2022), "min-snr" is min(s²/t², 5) (Hang et al. 2023, arXiv 2303.09556, for
    predictions of x), "plain" is 1.
    """
    match kind:
        case "edm":
            return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        case "min-snr":
            return (SIGMA_DATA / sigma).square().clamp_max(SNR_LIMIT)
        case "plain":
            return torch.ones_like(sigma)


def denoising_loss(model: Trainable, x: Tensor, noise: Tensor, sigma: Tensor, kind: LossWeight = "edm") -> Tensor:
    """Mean over images and pixels of w(t)·(D(x_t, t) − x)².

    Args:
        model: D is its ``denoise``.
        x: clean images in [-1, 1], (N, C, H, W).
        noise: standard normal, (N, C, H, W).
        sigma: t, (N,).
        kind: of w, see :func:`weight_at`.
    """
    weight = weight_at(sigma, kind)
    error = (model.denoise(x + sigma[:, None, None, None] * noise, sigma) - x).square().flatten(1).mean(1)
    loss: Tensor = weight * error
    return loss.mean()


def consistency_loss(
    model: Trainable, x: Tensor, noise: Tensor, sigma: Tensor, ratio: float | Tensor, huber: float
) -> Tensor:
    """Mean over images of w(t)·(√(‖f(x_t, t) − sg f(x_r, r)‖² + c²) − c)/√d, r = max(t·(1 − 1/q), t_min).

    x_t and x_r share the noise, d is the number of values of an image; w(t) = √(t² + s²)/(t·s) makes a relative error
    of the network's output weigh the same at every level, where 1/(t − r) would all but ignore the high ones that
    purification starts from.

    Args:
        model: f.
        x: clean images in [-1, 1], (N, C, H, W).
        noise: standard normal, (N, C, H, W).
        sigma: t, (N,).
        ratio: q.
        huber: c.
    """
    lower = (sigma * (1 - 1 / ratio)).clamp_min(model.sigma_min)
    with torch.no_grad():
        target = model(x + lower[:, None, None, None] * noise, lower)
    difference = (model(x + sigma[:, None, None, None] * noise, sigma) - target).flatten(1)
    weight = (sigma**2 + SIGMA_DATA**2).sqrt() / (sigma * SIGMA_DATA)
    loss: Tensor = weight * ((difference.square().sum(1) + huber**2).sqrt() - huber)
    return loss.mean() / math.sqrt(difference.shape[1])
