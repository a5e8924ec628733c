"""The WideResNet of DeepMind's robust classifiers (Gowal et al., arXiv 2010.03593), with their parameter names.

It differs from the other WideResNet in its activation, in the side on which strided convolutions are padded, and in
that it normalises its input. RobustBench calls the activation Swish for some checkpoints and SiLU for others: both
are x · sigmoid(x).
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.models.networks.normalisation import CIFAR10


def pad_same(x: Tensor, stride: int) -> Tensor:
    """Zeros around x as TensorFlow's "SAME" pads a 3×3 convolution: right and below only where the stride is 2."""
    return F.pad(x, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class DMWideBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice; residual.

    Where the number of channels changes, the shortcut is a 1×1 convolution of the activated input; elsewhere it is
    the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(channels_in)
        self.conv_0 = nn.Conv2d(channels_in, channels_out, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels_out)
        self.conv_1 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if channels_in != channels_out else None
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h / stride, w / stride), h and w even."""
        activated = F.silu(self.batchnorm_0(x))
        h = self.conv_0(pad_same(activated, self.stride))
        h = self.conv_1(F.silu(self.batchnorm_1(h)))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out: Tensor = shortcut + h
        return out


def dm_wide_group(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution, the first of which changes it, one level down in the state dict under "block"."""
    first = DMWideBlock(channels_in, channels_out, stride)
    block = nn.Sequential(first, *(DMWideBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(block=block))


class DMWideResNet(nn.Module):
    """A WideResNet of 16·width, 32·width and 64·width channels at full, half and quarter resolution.

    Args:
        depth: number of convolutions of the main path, 6n + 4.
        width: the widening factor.
        classes: number of logits.
    """

    def __init__(self, depth: int, width: int, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            dm_wide_group(16, 16 * width, blocks, 1),
            dm_wide_group(16 * width, 32 * width, blocks, 2),
            dm_wide_group(32 * width, 64 * width, blocks, 2),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.logits = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W), sides multiples of 4 -> logits (N, classes)."""
        h = self.layer(self.init_conv(CIFAR10(x)))
        h = F.silu(self.batchnorm(h))
        logits: Tensor = self.logits(h.mean((2, 3)))
        return logits
