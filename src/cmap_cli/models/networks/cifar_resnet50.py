"""ResNet-50 with a stem for 32×32 images, as the `robustness` library trained it (Engstrom et al., 2019).

Parameter names are those of github.com/kuangliu/pytorch-cifar, which that library and RobustBench took over.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.models.networks.normalisation import CIFAR10_PER_IMAGE

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the stride in the middle one; residual."""

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = EXPANSION * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, 4·width, h / stride, w / stride)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return F.relu(h + self.shortcut(x))


def bottleneck_stage(channels_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution, the first of which changes it."""
    first = Bottleneck(channels_in, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))


class CifarResNet50(nn.Module):
    """3, 4, 6 and 3 blocks of 256, 512, 1024 and 2048 channels, the resolution halved from each to the next.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottleneck_stage(64, 64, 3, 1)
        self.layer2 = bottleneck_stage(256, 128, 4, 2)
        self.layer3 = bottleneck_stage(512, 256, 6, 2)
        self.layer4 = bottleneck_stage(1024, 512, 3, 2)
        self.linear = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W) -> logits (N, classes)."""
        h = F.relu(self.bn1(self.conv1(CIFAR10_PER_IMAGE(x))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits
