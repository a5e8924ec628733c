"""NCSN++ as OpenAI trained it for CIFAR-10 consistency models (Song et al. 2021, arXiv 2011.13456; 2023, 2303.01469).

A U-Net of three levels, 32², 16² and 8², all of one width, with residual blocks that resample by a FIR filter,
attention at 16² and in the middle, and a second path down, the input pyramid, that brings the filtered image to every
level. Every sum of two branches is scaled by 1/√2, which keeps the variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.core.consistency import SIGMA_MAX, SIGMA_MIN, c_in, c_noise, c_out, c_skip
from cmap_cli.errors import WeightsError
from cmap_cli.models.networks.gaussian import full_precision
from cmap_cli.models.networks.state import Description, fill, typed

KIND = "openai-ncsnpp"

LEVELS = 3
WIDTH = 2  # of every level, in units of ``channels``
ATTENTION_LEVEL = 1


def group_norm(channels: int) -> nn.GroupNorm:
    """Four channels per group, but at most 32 groups."""
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def add_branches(a: Tensor, b: Tensor) -> Tensor:
    """(a + b) / √2: the sum of two independent branches of unit variance has unit variance."""
    return (a + b) * math.sqrt(0.5)


class FourierFeatures(nn.Module):
    """[sin 2πcw, cos 2πcw] of a scalar c for fixed frequencies w.

    They were drawn from N(0, 16²) before training and belong to the weights; until those are loaded they are zero.
    """

    frequencies: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(count))

    def forward(self, c: Tensor) -> Tensor:
        """(N,) -> (N, 2 · count)."""
        phase = c[:, None] * self.frequencies * (2 * math.pi)
        return torch.cat([phase.sin(), phase.cos()], 1)


class Blur(nn.Module):
    """The filter [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64 on every channel, zeros around the image."""

    kernel: Tensor

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu")  # a constant: there also when built on "meta"
        self.register_buffer("kernel", gain / 64 * torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h + 1, w + 1), what a 3×3 convolution of stride 2 without padding halves."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 4, 4), padding=2, groups=channels)


class BlurDown(Blur):
    """Blur, then every second pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h / 2, w / 2)."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


class BlurUp(Blur):
    """Zeros between the pixels, then a blur that is multiplied by four to compensate for the zeros."""

    def __init__(self) -> None:
        super().__init__(gain=4.0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, 2h, 2w)."""
        channels = x.shape[1]
        return F.conv_transpose2d(x, self.kernel.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


class NCSNppResBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice, the noise level entering as a shift between; residual.

    Args:
        channels_in: of the input.
        channels_out: of the output.
        embedding: size of the noise embedding.
        resample: changes the resolution of both branches, before the first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int, resample: Blur | None = None) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.resample = nn.Identity() if resample is None else resample
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.shift = nn.Linear(embedding, channels_out)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out and resample is None
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, channels_in, h, w) and (N, embedding) -> (N, channels_out, h', w')."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        h = h + self.shift(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return add_branches(self.skip(self.resample(x)), h)


class Attention(nn.Module):
    """Single-head self-attention over all pixels; residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> the same shape."""
        pixels = self.norm(x).flatten(2).transpose(1, 2).contiguous()
        heads = (project(pixels)[:, None] for project in (self.query, self.key, self.value))
        h = self.out(F.scaled_dot_product_attention(*heads)[:, 0])
        return add_branches(x, h.transpose(1, 2).unflatten(2, x.shape[2:]))


class PyramidStep(nn.Module):
    """One step of the input pyramid: blur and a 3×3 convolution of stride 2, together half the resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.blur = Blur()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h / 2, w / 2)."""
        out: Tensor = self.conv(self.blur(x))
        return out


class DownBlock(nn.Module):
    """A residual block of the way down, with attention or without."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int, attention: bool) -> None:
        super().__init__()
        self.res = NCSNppResBlock(channels_in, channels_out, embedding)
        self.attention = Attention(channels_out) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(N, channels_in, h, w) and (N, embedding) -> (N, channels_out, h, w)."""
        out: Tensor = self.attention(self.res(x, embedding))
        return out


class DownLevel(nn.Module):
    """The blocks of one resolution on the way down.

    Args:
        channels_in: of the first block's input.
        width: channels of the blocks.
        blocks: how many.
        embedding: size of the noise embedding.
        attention: whether every block has one.
    """

    def __init__(self, channels_in: int, width: int, blocks: int, embedding: int, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DownBlock(width if i else channels_in, width, embedding, attention) for i in range(blocks)
        )

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        """(N, channels_in, h, w) and (N, embedding) -> the output of every block, (N, width, h, w)."""
        outputs = []
        for block in self.blocks:
            h = block(h, embedding)
            outputs.append(h)
        return outputs


class Shrink(nn.Module):
    """From one level down to the next: a residual block at half the resolution meets the input pyramid."""

    def __init__(self, pyramid_channels: int, width: int, embedding: int) -> None:
        super().__init__()
        self.res = NCSNppResBlock(width, width, embedding, BlurDown())
        self.pyramid = PyramidStep(pyramid_channels, width)

    def forward(self, h: Tensor, pyramid: Tensor, embedding: Tensor) -> Tensor:
        """(N, width, h, w), (N, pyramid_channels, h, w), (N, embedding) -> (N, width, h / 2, w / 2)."""
        return add_branches(self.res(h, embedding), self.pyramid(pyramid))


class UpLevel(nn.Module):
    """The blocks of one resolution on the way up: each takes one skip; one attention; one residual block up.

    Args:
        skip_channels: of the skips, in the order in which the blocks take them.
        width: channels of the level below and of the blocks.
        embedding: size of the noise embedding.
        attention: whether there is one after the blocks.
        last: whether there is no level above.
    """

    def __init__(self, skip_channels: list[int], width: int, embedding: int, attention: bool, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(NCSNppResBlock(width + skip, width, embedding) for skip in skip_channels)
        self.attention = Attention(width) if attention else nn.Identity()
        self.grow = None if last else NCSNppResBlock(width, width, embedding, BlurUp())

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, width, 2h, 2w), or h × w when last; takes its skips from the end of the list."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], 1), embedding)
        h = self.attention(h)
        return h if self.grow is None else self.grow(h, embedding)


class NCSNpp(nn.Module):
    """The backbone F for images (3, 32, 32).

    Submodules are registered in the order in which they are called; :meth:`call_order` relies on it.

    Args:
        channels: of the first convolution; every level is twice as wide. A power of two, at least 4.
        blocks: residual blocks of a level on the way down; one more on the way up.
    """

    def __init__(self, channels: int = 128, blocks: int = 4) -> None:
        super().__init__()
        width, embedding = WIDTH * channels, 4 * channels
        self.fourier = FourierFeatures(channels)
        self.embed = nn.Sequential(
            nn.Linear(2 * channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList()
        for level in range(LEVELS):
            if level:
                self.down.append(Shrink(width if level > 1 else 3, width, embedding))
            attention = level == ATTENTION_LEVEL
            self.down.append(DownLevel(width if level else channels, width, blocks, embedding, attention))
        self.middle1 = NCSNppResBlock(width, width, embedding)
        self.middle_attention = Attention(width)
        self.middle2 = NCSNppResBlock(width, width, embedding)
        self.up = nn.ModuleList(
            UpLevel(
                [width] * blocks + [width if level else channels],
                width,
                embedding,
                attention=level == ATTENTION_LEVEL,
                last=level == 0,
            )
            for level in reversed(range(LEVELS))
        )
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Images (N, 3, 32, 32) and c_noise (N,) -> (N, 3, 32, 32)."""
        with full_precision(x):  # its rounding would shift every block, and it costs next to nothing
            embedding = self.embed(self.fourier(noise))
        pyramid = x
        h = self.conv_in(x)
        skips = [h]
        for step in self.down:
            if isinstance(step, Shrink):
                h = pyramid = step(h, pyramid, embedding)
                skips.append(h)
            else:
                outputs = step(h, embedding)
                h = outputs[-1]
                skips.extend(outputs)
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for level in self.up:
            h = level(h, skips, embedding)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out

    def call_order(self) -> list[tuple[str, str]]:
        """The modules that hold parameters in the order of their calls.

        Returns:
            For each the name of its class in OpenAI's flax code and its prefix in our state dict. Flax numbers the
            modules of each class in this order, score_sde_pytorch all of them together.
        """
        flax_classes: dict[type[nn.Module], str] = {
            FourierFeatures: "GaussianFourierProjection",
            nn.Linear: "Dense",
            nn.Conv2d: "Conv",
            nn.GroupNorm: "GroupNorm",
            NCSNppResBlock: "ResnetBlockBigGANpp",
            Attention: "AttnBlockpp",
            PyramidStep: "Downsample",
        }
        order: list[tuple[str, str]] = []
        for prefix, module in self.named_modules():
            inside_the_last = bool(order) and prefix.startswith(f"{order[-1][1]}.")
            if type(module) in flax_classes and not inside_the_last:
                order.append((flax_classes[type(module)], prefix))
        return order


class NCSNppConsistency(nn.Module):
    """f(x, t) = c_skip(t)·x + c_out(t) · F(c_in(t)·x, ¼·ln t).

    Args:
        backbone: F.
        sigma_min: t_min.
        sigma_max: t_max.
    """

    image_shape = (3, 32, 32)

    def __init__(self, backbone: NCSNpp, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX) -> None:
        super().__init__()
        self.backbone = backbone
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, 3, 32, 32) and (N,) -> (N, 3, 32, 32)."""
        level = sigma[:, None, None, None]
        correction: Tensor = self.backbone(c_in(level) * x, c_noise(sigma))
        return c_skip(level, self.sigma_min) * x + c_out(level, self.sigma_min) * correction.to(x.dtype)


class NCSNppDescription(Description, frozen=True, kw_only=True):
    """The description that is stored with the tensors of an NCSN++; the attributes are those of :class:`NCSNpp`."""

    kind: Literal["openai-ncsnpp"]
    channels: Annotated[int, msgspec.Meta(ge=4, le=512)]
    blocks: Annotated[int, msgspec.Meta(ge=1, le=16)]


def build_ncsnpp(description: Mapping[str, Any]) -> NCSNppConsistency:
    """The network of a stored description, its weights on the meta device.

    ``load_state_dict(tensors, assign=True)`` adds the weights; a network without them takes no memory.

    Raises:
        WeightsError: the description is not that of an NCSN++.
    """
    fields = typed(description, NCSNppDescription)
    try:
        with torch.device("meta"):
            backbone = NCSNpp(fields.channels, fields.blocks)
    except ValueError as error:  # the groups of a norm do not divide its channels
        raise WeightsError(f"there is no NCSN++ of {fields.channels} channels: {error}") from error
    return NCSNppConsistency(backbone, fields.sigma_min, fields.sigma_max)


def restore(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The model of a stored description, with its weights (WeightsError)."""
    return fill(build_ncsnpp(description), tensors)
