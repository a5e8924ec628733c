"""The pre-activation ResNet-18 of DeepMind's robust classifiers (Gowal et al., arXiv 2110.09468)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.models.networks.dm_wide_resnet import pad_same
from cmap_cli.models.networks.normalisation import CIFAR10


class PreActBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, twice; residual.

    Where the shape changes, the shortcut is a 3×3 convolution of the input itself, before norm and activation.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(channels_in)
        self.conv_2d_1 = nn.Conv2d(channels_in, channels_out, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(channels_out)
        self.conv_2d_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(channels_in, channels_out, 3, stride, bias=False) if channels_in != channels_out else None
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, h, w) -> (N, channels_out, h / stride, w / stride), h and w even."""
        h = self.conv_2d_1(pad_same(F.silu(self.batchnorm_0(x)), self.stride))
        h = self.conv_2d_2(F.silu(self.batchnorm_1(h)))
        shortcut = x if self.shortcut is None else self.shortcut(pad_same(x, self.stride))
        out: Tensor = shortcut + h
        return out


def preact_stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """The two blocks of one resolution."""
    return nn.Sequential(PreActBlock(channels_in, channels_out, stride), PreActBlock(channels_out, channels_out, 1))


class DMPreActResNet18(nn.Module):
    """64, 128, 256 and 512 channels, the resolution halved from each to the next.

    Args:
        classes: number of logits.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv_2d = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.layer_0 = preact_stage(64, 64, 1)
        self.layer_1 = preact_stage(64, 128, 2)
        self.layer_2 = preact_stage(128, 256, 2)
        self.layer_3 = preact_stage(256, 512, 2)
        self.batchnorm = nn.BatchNorm2d(512)
        self.logits = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W), sides multiples of 8 -> logits (N, classes)."""
        h = self.conv_2d(CIFAR10(x))
        h = self.layer_3(self.layer_2(self.layer_1(self.layer_0(h))))
        h = F.silu(self.batchnorm(h))
        logits: Tensor = self.logits(h.mean((2, 3)))
        return logits
