"""The thin CIFAR ResNets of He et al. (arXiv 1512.03385, section 4.2): 0.3 to 0.9 million parameters.

Parameter names are those of github.com/akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)


class OptionABlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters (option A of the paper)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.stride = stride
        self.padding = (channels_out - channels_in) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        """Every stride-th pixel, with channels of zeros added in equal number before and after those of x."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h / stride, w / stride)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self.shortcut(x))


def option_a_stage(channels_in: int, channels_out: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution, the first of which changes it."""
    first = OptionABlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(OptionABlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """A ResNet of 16, 32 and 64 channels at full, half and quarter resolution.

    Args:
        depth: number of layers with weights, 6n + 2: 20, 32, 44, 56.
        classes: number of logits.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = option_a_stage(WIDTHS[0], WIDTHS[0], blocks, 1)
        self.layer2 = option_a_stage(WIDTHS[0], WIDTHS[1], blocks, 2)
        self.layer3 = option_a_stage(WIDTHS[1], WIDTHS[2], blocks, 2)
        self.linear = nn.Linear(WIDTHS[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images that are normalised already, (N, 3, H, W) -> logits (N, classes)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.layer3(self.layer2(self.layer1(h)))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
