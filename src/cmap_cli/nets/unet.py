"""A small U-Net consistency model on 2×2 patches, preconditioned with the closed-form Gaussian one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.core.consistency import c_in, c_noise, c_out
from cmap_cli.nets.gaussian import GaussianConsistency

PATCH = 2
GROUP_SIZE = 16


class ResBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice, the noise level entering as a shift between; residual."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(channels_in // GROUP_SIZE, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.shift = nn.Linear(embedding, channels_out)
        self.norm2 = nn.GroupNorm(channels_out // GROUP_SIZE, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, channels_in, h, w) and (N, embedding) -> (N, channels_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.shift(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        out: Tensor = self.skip(x) + h
        return out


class UNet(nn.Module):
    """The backbone F: one residual block a level down and up, levels joined by 2×2 mean pooling and nearest upsampling.

    Args:
        channels_in: of the input images.
        channels_out: of the output images.
        widths: channels of each level, the first at half the image's resolution; multiples of 16.
    """

    def __init__(self, channels_in: int, channels_out: int, widths: Sequence[int]) -> None:
        super().__init__()
        embedding = 2 * widths[0]
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-2, 1, widths[0] // 2), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(widths[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(channels_in * PATCH**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            ResBlock(before, width, embedding) for before, width in zip([widths[0], *widths], widths, strict=False)
        )
        self.middle = ResBlock(widths[-1], widths[-1], embedding)
        self.up = nn.ModuleList(
            ResBlock(below + width, width, embedding)
            for below, width in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        self.norm_out = nn.GroupNorm(widths[0] // GROUP_SIZE, widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels_out * PATCH**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Images (N, channels_in, H, W) and c_noise (N,) -> (N, channels_out, H, W)."""
        phase = noise[:, None] * self.frequencies
        embedding = self.embed(torch.cat([phase.sin(), phase.cos()], 1))
        h = self.conv_in(F.pixel_unshuffle(x, PATCH))
        skips = []
        for level, block in enumerate(self.down):
            h = block(F.avg_pool2d(h, 2) if level else h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for level in reversed(range(len(self.up))):
            h = self.up[level](torch.cat([h, skips[level]], 1), embedding)
            if level:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        patches: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(patches, PATCH)


class UNetConsistency(nn.Module):
    """f(x, t) = G(x, t) + c_out(t) · F([c_in(t)·x, G(x, t), D(x, t)], ¼·ln t).

    G is the exact consistency function of the Gaussian with the data's mean and covariance and D its posterior mean.
    G satisfies the boundary condition and is right about all that is linear at every noise level; F adds the rest,
    and c_out(t_min) = 0 keeps f(x, t_min) = x.

    Args:
        base: G.
        widths: channels of each level of F; the image's sides must be multiples of 2^len(widths).
    """

    def __init__(self, base: GaussianConsistency, widths: Sequence[int] = (96, 160, 160)) -> None:
        super().__init__()
        self.base = base
        self.widths = tuple(widths)
        self.sigma_min = base.sigma_min
        self.sigma_max = base.sigma_max
        channels = base.image_shape[0]
        self.backbone = UNet(3 * channels, channels, widths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.base.image_shape

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        """Those of the base."""
        return self.base.principal_directions()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, C, H, W) and (N,) -> (N, C, H, W)."""
        level = sigma[:, None, None, None]
        consistency, posterior_mean = self.base.estimates(x, sigma)
        seen = torch.cat([c_in(level) * x, consistency, posterior_mean], 1)
        correction: Tensor = self.backbone(seen, c_noise(sigma))
        return consistency + c_out(level, self.sigma_min) * correction.float()
