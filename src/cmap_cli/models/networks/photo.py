"""A fully convolutional consistency model of photographs of any size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.choices import Preset
from cmap_cli.core.consistency import SIGMA_MAX, SIGMA_MIN, c_in, c_noise, c_out, c_skip
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.core.sizes import pad_to_multiple
from cmap_cli.models.networks.state import Description, fill, typed

KIND = "photo"
DENOISING_PRESETS: Mapping[Preset, PurifyConfig] = {
    "fast": PurifyConfig(method="denoise", steps=0, num_latents=1, denoise_level=0.16),
    "balanced": PurifyConfig(method="denoise", steps=0, num_latents=4, denoise_level=0.16),
}
"""The quick presets of this network, chosen by measurement (docs/explanation/presets.md)."""
BACKBONE = "backbone."
PATCH = 2
FREQUENCIES = 32
EMBEDDING = 128

Width = Annotated[int, msgspec.Meta(ge=1, le=8192)]
Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]


class PhotoDescription(Description, frozen=True, kw_only=True):
    """The description that is stored with the tensors; the attributes are those of :class:`PhotoConsistency`."""

    kind: Literal["photo"]
    widths: Annotated[tuple[Width, ...], msgspec.Meta(min_length=2, max_length=8)]
    blocks: Count
    middle: Count
    image_shape: tuple[Side, Side, Side]


class ModulatedBlock(nn.Module):
    """x + conv(ReLU((1 + a(t))·conv(x) + b(t))), 3×3 convolutions, without normalisation.

    A normalisation over the picture would make the result of a tile differ from that of the whole picture.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        silence(self.modulation)
        silence(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, channels, h, w) and (N, embedding) -> (N, channels, h, w)."""
        h = self.conv1(x)
        scale, shift = self.modulation(embedding).to(h.dtype)[:, :, None, None].chunk(2, 1)
        out: Tensor = x + self.conv2(F.relu(torch.addcmul(h + shift, h, scale)))
        return out


class PhotoUNet(nn.Module):
    """The backbone F: blocks per level, down and up, skips added, levels joined by 2×2 convolutions of stride 2.

    Args:
        channels: of the images, in and out.
        widths: channels of each level, the first at half the image's resolution.
        blocks: of each level but the last on the way down, and again on the way up.
        middle: blocks of the last level.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, middle: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        frequencies = torch.logspace(-2, 1, FREQUENCIES, device="cpu")  # also where a file's tensors are to come
        self.register_buffer("frequencies", 2 * math.pi * frequencies, persistent=False)
        self.embed = nn.Sequential(nn.Linear(2 * FREQUENCIES, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.conv_in = nn.Conv2d(channels * PATCH**2, widths[0], 3, padding=1)
        self.conv_out = nn.Conv2d(widths[0], channels * PATCH**2, 3, padding=1)
        silence(self.conv_out)
        level, pairs = nn.ModuleList, list(pairwise(widths))
        self.down = level(level(ModulatedBlock(w, EMBEDDING) for _ in range(blocks)) for w in widths[:-1])
        self.middle = level(ModulatedBlock(widths[-1], EMBEDDING) for _ in range(middle))
        self.up = level(level(ModulatedBlock(w, EMBEDDING) for _ in range(blocks)) for w in widths[:-1])
        self.shrink = level(nn.Conv2d(above, below, 2, stride=2) for above, below in pairs)
        self.grow = level(nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in pairs)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Images (N, channels, H, W), sides multiples of the stride, and c_noise (N,) -> (N, channels, H, W)."""
        phase = noise[:, None] * self.frequencies
        embedding = F.silu(self.embed(torch.cat([phase.sin(), phase.cos()], 1)))
        h = self.conv_in(F.pixel_unshuffle(x, PATCH))
        start = h
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = run(blocks, h, embedding)
            skips.append(h)
            h = shrink(h)
        h = run(self.middle, h, embedding)
        for level in reversed(range(len(skips))):
            h = run(self.up[level], self.grow[level](h) + skips[level], embedding)
        patches: Tensor = self.conv_out(h + start)
        return F.pixel_shuffle(patches, PATCH)


def silence(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the weights of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def run(blocks: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """One level's blocks in their order."""
    for block in blocks.children():
        h = block(h, embedding)
    return h


class PhotoConsistency(nn.Module):
    """f(x, t) = c_skip(t)·x + c_out(t)·F(c_in(t)·x, ¼·ln t), on images of any size.

    The preconditioning is that of Karras et al. 2022 and Song et al. 2023: c_skip(t_min) = 1 and c_out(t_min) = 0 keep
    f(x, t_min) = x. Images are extended to multiples of the stride by reflection at the right and at the bottom, and
    cropped afterwards. An output pixel depends on no input pixel that is farther than ``receptive_radius`` in a row or
    column: a tile that starts at multiples of ``stride`` and extends that far beyond its used part gives
    the same result as the whole picture.

    Args:
        widths: channels of each level of F, the first at half the image's resolution.
        blocks: residual blocks of each level but the last, on the way down and again on the way up.
        middle: residual blocks of the last level.
        image_shape: (C, H, W) of images that are asked for without a size.
        sigma_min: t_min.
        sigma_max: t_max.

    Attributes:
        generates: False, because it is trained as a denoiser only.
        presets: its own quick presets, which only denoise.
    """

    generates = False
    presets = DENOISING_PRESETS

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192),
        blocks: int = 2,
        middle: int = 3,
        image_shape: tuple[int, int, int] = (3, 224, 224),
        sigma_min: float = SIGMA_MIN,
        sigma_max: float = SIGMA_MAX,
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.blocks = blocks
        self.middle = middle
        self.image_shape = image_shape
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.backbone = PhotoUNet(image_shape[0], self.widths, blocks, middle)

    @property
    def stride(self) -> int:
        """Pixels: sides that are multiples of it are not padded, and tiles start at multiples of it."""
        return PATCH << (len(self.widths) - 1)

    @property
    def receptive_radius(self) -> int:
        """Pixels, a multiple of the stride: input farther away in a row or column leaves an output pixel unchanged.

        Each 3×3 convolution adds one pixel of its level; patches and 2×2 steps add the other pixels of their square.
        """
        levels = len(self.widths)
        convolutions = [2 + 4 * self.blocks] + [4 * self.blocks] * (levels - 2) + [2 * self.middle]
        reach = sum((PATCH << level) * count for level, count in enumerate(convolutions)) + self.stride - 1
        return -(-reach // self.stride) * self.stride

    def description(self) -> dict[str, object]:
        """The fields of :class:`PhotoDescription`."""
        return {
            "kind": KIND,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "widths": list(self.widths),
            "blocks": self.blocks,
            "middle": self.middle,
            "image_shape": list(self.image_shape),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the backbone, in float16."""
        return {f"{BACKBONE}{key}": value.half() for key, value in self.backbone.state_dict().items()}

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, C, H, W) and (N,) -> (N, C, H, W), any H and W."""
        return self.denoise(x, sigma)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x_t] as the network estimates it, shapes of :meth:`forward`."""
        level = sigma[:, None, None, None]
        height, width = x.shape[-2:]
        padded = pad_to_multiple(c_in(level) * x, self.stride)
        correction: Tensor = self.backbone(padded, c_noise(sigma))[..., :height, :width]
        return c_skip(level, self.sigma_min) * x + c_out(level, self.sigma_min) * correction.float()


def restore(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> PhotoConsistency:
    """The network of a stored description and its tensors, called ``backbone.…`` (WeightsError)."""
    fields = typed(description, PhotoDescription)
    with torch.device("meta"):  # a description alone takes no memory
        model = PhotoConsistency(
            fields.widths, fields.blocks, fields.middle, fields.image_shape, fields.sigma_min, fields.sigma_max
        )
    fill(model, tensors)
    return model
