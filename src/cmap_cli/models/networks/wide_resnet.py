"""The pre-activation WideResNet (arXiv 1605.07146) with the parameter names of TRADES and RobustBench."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F


class WideBlock(nn.Module):
    """Norm, ReLU, 3×3 convolution, twice; residual.

    Where the number of channels changes, the shortcut is a 1×1 convolution of the activated input; elsewhere it is
    the input itself.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if channels_in != channels_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h / stride, w / stride)."""
        activated = F.relu(self.bn1(x))
        h = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out: Tensor = shortcut + h
        return out


def wide_group(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution, the first of which changes it, one level down in the state dict under "layer"."""
    first = WideBlock(channels_in, channels_out, stride)
    layer = nn.Sequential(first, *(WideBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))


class WideResNet(nn.Module):
    """A WideResNet of 16·width, 32·width and 64·width channels at full, half and quarter resolution.

    Args:
        depth: number of convolutions of the main path, 6n + 4.
        width: the widening factor.
        sub_block1: hold a second copy of the first group, which never runs. The checkpoints of Carmon et al. (2019)
            and those derived from their code contain its weights.
        classes: number of logits.
    """

    def __init__(self, depth: int = 28, width: int = 10, sub_block1: bool = False, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = wide_group(16, 16 * width, blocks, 1)
        if sub_block1:
            self.sub_block1 = wide_group(16, 16 * width, blocks, 1)
        self.block2 = wide_group(16 * width, 32 * width, blocks, 2)
        self.block3 = wide_group(32 * width, 64 * width, blocks, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W) -> logits (N, classes); nothing is normalised."""
        h = self.block3(self.block2(self.block1(self.conv1(x))))
        h = F.relu(self.bn1(h))
        logits: Tensor = self.fc(h.mean((2, 3)))
        return logits
