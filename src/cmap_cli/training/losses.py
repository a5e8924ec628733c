"""The losses of the U-Net: denoising first, then consistency."""

from __future__ import annotations

import math
from itertools import pairwise
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

    x_t and x_r share the noise; d is the number of values of an image. With w(t) = √(t² + s²)/(t·s) a relative error of
    the network's output has the same weight at every level. With 1/(t − r) the high levels, at which purification
    starts, would have nearly no weight.

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
    return distance(model(x + sigma[:, None, None, None] * noise, sigma), target, sigma, huber)


def distance(estimate: Tensor, target: Tensor, sigma: Tensor, huber: float) -> Tensor:
    """The loss of :func:`consistency_loss` between two batches of images (N, C, H, W) at levels (N,)."""
    difference = (estimate - target).flatten(1)
    weight = (sigma**2 + SIGMA_DATA**2).sqrt() / (sigma * SIGMA_DATA)
    loss: Tensor = weight * ((difference.square().sum(1) + huber**2).sqrt() - huber)
    return loss.mean() / math.sqrt(difference.shape[1])


def ascend(model: Trainable, x: Tensor, levels: Tensor) -> Tensor:
    """Points of the denoiser's probability-flow ODE dx/dt = (x − D(x, t))/t, upwards from x, by Heun's method.

    Args:
        model: D is its ``denoise``.
        x: points at the first level, (N, C, H, W).
        levels: rising t, (n + 1, N).

    Returns:
        (n, N, C, H, W), the points at the other levels.
    """
    points = []
    for low, high in pairwise(levels):
        below, above = low[:, None, None, None], high[:, None, None, None]
        slope = (x - model.denoise(x, low)) / below
        ahead = x + (above - below) * slope
        x = x + (above - below) * (slope + (ahead - model.denoise(ahead, high)) / above) / 2
        points.append(x)
    return torch.stack(points)


def trajectory_loss(
    model: Trainable, teacher: Trainable, x: Tensor, noise: Tensor, levels: Tensor, tuned_from: float, huber: float
) -> Tensor:
    """Mean of w(t_i)·(√(‖f(x_i, t_i) − x‖² + c²) − c)/√d over points x_i of the ODE that starts at a noisy x.

    f learns to map each point of a real image's trajectory back to that image. The latents that restore an image are
    then those to which the denoiser's ODE leads. w, c and d are those of :func:`consistency_loss`.

    Args:
        model: f.
        teacher: D is its ``denoise``.
        x: clean images in [-1, 1], (N, C, H, W).
        noise: standard normal, (N, C, H, W); the trajectory starts at x + t_0·n.
        levels: rising t, (n + 1,).
        tuned_from: points at lower levels do not contribute to the loss.
        huber: c.
    """
    rising = levels[:, None].expand(-1, len(x))
    with torch.no_grad():
        points = ascend(teacher, x + levels[0] * noise, rising)
    used = levels[1:] >= tuned_from
    points, sigma = points[used], rising[1:][used].flatten()
    return distance(model(points.flatten(0, 1), sigma), x.repeat(len(points), 1, 1, 1), sigma, huber)
