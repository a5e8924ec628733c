"""A small U-Net consistency model on 2×2 patches, preconditioned with a Gaussian model, or as by Karras et al."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.choices import Preconditioning
from cmap_cli.core.consistency import c_in, c_noise, c_out, c_skip
from cmap_cli.models.networks import gaussian
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.state import Description, NotNegative, fill, typed

KIND = "unet"
PATCH = 2
GROUP_SIZE = 16
BACKBONE = "backbone."

Width = Annotated[int, msgspec.Meta(ge=GROUP_SIZE, le=8192, multiple_of=GROUP_SIZE)]


class UNetDescription(Description, frozen=True, kw_only=True):
    """The description that is stored with the tensors; the attributes are those of :class:`UNetConsistency`."""

    kind: Literal["unet"]
    residual: NotNegative
    widths: Annotated[tuple[Width, ...], msgspec.Meta(min_length=1, max_length=12)]
    blocks: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    preconditioning: Preconditioning = "gaussian"


class UNetResBlock(nn.Module):
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
    """The backbone F: residual blocks per level, down and up, levels joined by 2×2 mean pooling and nearest upsampling.

    Args:
        channels_in: of the input images.
        channels_out: of the output images.
        widths: channels of each level, the first at half the image's resolution; multiples of 16.
        blocks: residual blocks per level on the way down, and again on the way up.
    """

    def __init__(self, channels_in: int, channels_out: int, widths: Sequence[int], blocks: int = 1) -> None:
        super().__init__()
        embedding = 2 * widths[0]
        self.blocks = blocks
        self.frequencies: Tensor
        frequencies = torch.logspace(
            -2, 1, widths[0] // 2, device="cpu"
        )  # not in the file, so never on the meta device
        self.register_buffer("frequencies", 2 * math.pi * frequencies, persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(widths[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(channels_in * PATCH**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            UNetResBlock(width if block else before, width, embedding)
            for before, width in zip([widths[0], *widths], widths, strict=False)
            for block in range(blocks)
        )
        self.middle = UNetResBlock(widths[-1], widths[-1], embedding)
        self.up = nn.ModuleList(
            UNetResBlock(width if block else below + width, width, embedding)
            for below, width in zip([*widths[1:], widths[-1]], widths, strict=True)
            for block in range(blocks)
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
        for first in range(0, len(self.down), self.blocks):
            h = F.avg_pool2d(h, 2) if first else h
            for block in range(first, first + self.blocks):
                h = self.down[block](h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for level in reversed(range(len(skips))):
            h = torch.cat([h, skips[level]], 1)
            for block in range(level * self.blocks, (level + 1) * self.blocks):
                h = self.up[block](h, embedding)
            if level:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        patches: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(patches, PATCH)


class UNetConsistency(nn.Module):
    """f(x, t) = G(x, t) + c_out(t) · F([c_in(t)·x, G(x, t), D(x, t)], ¼·ln t).

    G is the exact consistency function of the Gaussian with the data's mean and covariance and D its posterior mean.
    G satisfies the boundary condition and is exact for Gaussian data at every noise level; F corrects it for real data,
    and c_out(t_min) = 0 keeps f(x, t_min) = x.

    With ``preconditioning="plain"`` (Karras et al. 2022; Song et al. 2023) c_skip(t)·x takes G's place, and F sees
    c_in(t)·x alone.

    Args:
        base: G.
        widths: channels of each level of F; the image's sides must be multiples of 2^len(widths).
        blocks: residual blocks per level.
        preconditioning: "gaussian" or "plain".
    """

    def __init__(
        self,
        base: GaussianConsistency,
        widths: Sequence[int] = (96, 160, 160),
        blocks: int = 1,
        preconditioning: Preconditioning = "gaussian",
    ) -> None:
        super().__init__()
        self.base = base
        self.widths = tuple(widths)
        self.blocks = blocks
        self.preconditioning = preconditioning
        self.sigma_min = base.sigma_min
        self.sigma_max = base.sigma_max
        channels = base.image_shape[0]
        self.backbone = UNet(channels * (3 if preconditioning == "gaussian" else 1), channels, widths, blocks)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.base.image_shape

    def description(self) -> dict[str, object]:
        """The fields of :class:`UNetDescription`."""
        return self.base.description() | {
            "kind": KIND,
            "widths": list(self.widths),
            "blocks": self.blocks,
            "preconditioning": self.preconditioning,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the base, and those of the backbone in float16."""
        backbone = {f"{BACKBONE}{key}": value.half() for key, value in self.backbone.state_dict().items()}
        return self.base.tensors() | backbone

    def principal_directions(self) -> tuple[Tensor, Tensor]:
        """The principal directions of the base."""
        return self.base.principal_directions()

    @property
    def invertible(self) -> bool:
        """Whether the base contributes most of f."""
        return self.preconditioning == "gaussian"

    def invert(self, x: Tensor, z: Tensor) -> Tensor:
        """The inverse of the base; shapes of :meth:`GaussianConsistency.invert`."""
        return self.base.invert(x, z)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, C, H, W) and (N,) -> (N, C, H, W)."""
        return self.estimate(x, sigma, posterior_mean=False)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The same network as an estimate of E[x_0 | x_t], with D instead of G; denoising pre-training trains it."""
        return self.estimate(x, sigma, posterior_mean=True)

    def estimate(self, x: Tensor, sigma: Tensor, *, posterior_mean: bool) -> Tensor:
        """One of the two linear estimates, plus c_out(t)·F."""
        level = sigma[:, None, None, None]
        if self.preconditioning == "plain":
            start, seen = c_skip(level, self.sigma_min) * x, c_in(level) * x
        else:
            consistency, wiener = self.base.estimates(x, sigma)
            start, seen = (
                wiener if posterior_mean else consistency,
                torch.cat([c_in(level) * x, consistency, wiener], 1),
            )
        correction: Tensor = self.backbone(seen, c_noise(sigma))
        return start + c_out(level, self.sigma_min) * correction.float()


def restore(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> UNetConsistency:
    """The U-Net of a stored description, its base's tensors and those called ``backbone.…`` (WeightsError)."""
    fields = typed(description, UNetDescription)
    backbone = {key.removeprefix(BACKBONE): value for key, value in tensors.items() if key.startswith(BACKBONE)}
    others = {key: value for key, value in tensors.items() if not key.startswith(BACKBONE)}
    base = gaussian.build_gaussian(others, fields.residual, fields.sigma_min, fields.sigma_max)
    with torch.device("meta"):  # a description alone takes no memory
        model = UNetConsistency(base, fields.widths, fields.blocks, fields.preconditioning)
    fill(model.backbone, backbone)
    return model
