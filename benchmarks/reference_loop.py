"""The plain loop that latent optimisation is usually run as, to measure ours against. It imports nothing of ours.

Everything that costs time in public practice is here on purpose: one image at a time; float32; parameters of the
network that ask for gradients, so that weight gradients are computed and thrown away at every step; SSIM with
depthwise 11×11 convolutions and the statistics of both images at every step; torch.optim.Adam; and, if asked for, a
classifier that is run on three times K images at every step for a log. The objective is that of the paper (CMAP,
arXiv 2412.08394); tests/unit/core/test_reference_loop.py holds that the latents are those of our Purifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2


def window(channels: int, like: Tensor) -> Tensor:
    """The 11×11 Gaussian window for each channel, (channels, 1, 11, 11)."""
    offset = torch.arange(WINDOW_SIZE) - (WINDOW_SIZE - 1) / 2
    taps = torch.exp(-(offset**2) / (2 * WINDOW_SIGMA**2))
    taps = taps / taps.sum()
    return torch.outer(taps, taps).expand(channels, 1, WINDOW_SIZE, WINDOW_SIZE).to(like)


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of images in [0, 1], (N, C, H, W) -> (N, C, H, W), with nothing kept from one call to the next."""
    channels = a.shape[1]
    kernel = window(channels, a)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(image, kernel, padding=WINDOW_SIZE // 2, groups=channels)

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    cov = blur(a * b) - mu_a * mu_b
    return ((2 * mu_a * mu_b + C1) * (2 * cov + C2)) / ((mu_a**2 + mu_b**2 + C1) * (var_a + var_b + C2))


def objective(x_hat: Tensor, z: Tensor, y: Tensor, sigma_max: float, config: Any) -> Tensor:
    """The loss of one image: candidates and latents (K, C, H, W), target (C, H, W), images in [-1, 1]."""
    targets = y.expand_as(x_hat)
    pixel = (x_hat - targets).abs().sum()
    similarity = ssim_map((x_hat + 1) / 2, (targets + 1) / 2).sum()
    latent = (z.mean(0) ** 2).sum() + ((z.std(0) - sigma_max) ** 2).sum()
    weighted = pixel - config.perceptual_weight * similarity + config.latent_weight * len(z) * latent
    return config.scale * weighted


def reference_loop(
    model: nn.Module, x: Tensor, start: Tensor, config: Any, classifier: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Optimise the latents of every image, one image after the other.

    Args:
        model: f(x, t) with ``sigma_max``; its parameters are made to require gradients, as they do by default.
        x: images in [0, 1], (B, C, H, W).
        start: first latents, (B, K, C, H, W).
        config: steps, lr, betas, scale, perceptual_weight and latent_weight; constant learning rate.
        classifier: images in [0, 1] -> logits; run at every step for the log.

    Returns:
        The latents after the last step, (B, K, C, H, W).
    """
    model.requires_grad_(True)
    found = []
    for image, first in zip(x, start, strict=True):
        y = 2 * image - 1
        z = first.clone().requires_grad_()
        sigma = torch.full((len(z),), model.sigma_max, device=z.device)
        optimizer = torch.optim.Adam([z], lr=config.lr, betas=config.betas)
        for _ in range(config.steps):
            optimizer.zero_grad()
            x_hat = model(z, sigma).clamp(-1, 1)
            loss = objective(x_hat, z, y, model.sigma_max, config)
            loss.backward()
            optimizer.step()
            if classifier is not None:
                log(classifier, (x_hat.detach() + 1) / 2)
        found.append(z.detach())
    return torch.stack(found)


@torch.no_grad()
def log(classifier: Callable[[Tensor], Tensor], candidates: Tensor) -> dict[str, Any]:
    """Three figures, for each of which the candidates are classified again: 3K images."""
    return {
        "votes": classifier(candidates).argmax(1).tolist(),
        "probabilities": classifier(candidates).softmax(1).mean(0).tolist(),
        "certainty": classifier(candidates).softmax(1).amax(1).mean().item(),
    }
