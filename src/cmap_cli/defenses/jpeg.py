"""Defences to compare purification with: none, and JPEG compression."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cmap_cli.choices import Access
from cmap_cli.defenses.base import Passes

if TYPE_CHECKING:  # which imports this module
    from cmap_cli.defenses.deployed import Defenses

QUALITY = 75


class Undefended(nn.Module):
    """The bare classifier, with a count of its passes.

    Args:
        classifier: images in [0, 1] -> logits, frozen.

    Attributes:
        passes: images scored and differentiated so far.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.passes = Passes()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, classes)."""
        logits: Tensor = self.classifier(x)
        return self.passes.count(logits)


class JpegDefense(Undefended):
    """JPEG compression and decompression before the classifier; the identity in the backward pass (BPDA).

    Args:
        classifier: images in [0, 1] -> logits, frozen.
        quality: of the compression, 1 to 95.
    """

    def __init__(self, classifier: nn.Module, quality: int = QUALITY) -> None:
        super().__init__(classifier)
        self.quality = quality

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, classes)."""
        return super().forward(jpeg(x.detach(), self.quality) + (x - x.detach()))


def jpeg(x: Tensor, quality: int = QUALITY) -> Tensor:
    """Compress and decompress each image (B, 3, H, W) in [0, 1] as JPEG, on the CPU."""
    pixels = (x * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous().to(x) / 255


def attacked_module(
    parts: Defenses, access: Access, *, unroll: int | None, smoothing: float, quality: int = QUALITY
) -> JpegDefense:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`."""
    return JpegDefense(parts.classifier, quality)


def compress_and_classify(parts: Defenses, x: Tensor, seed: int, *, quality: int = QUALITY) -> tuple[Tensor, None]:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`."""
    return JpegDefense(parts.classifier, quality)(x), None


def bare_module(parts: Defenses, access: Access, *, unroll: int | None, smoothing: float) -> Undefended:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`."""
    return Undefended(parts.classifier)


def classify_bare(parts: Defenses, x: Tensor, seed: int) -> tuple[Tensor, None]:
    """A row of :data:`~cmap_cli.defenses.table.DEFENSES`."""
    return Undefended(parts.classifier)(x), None
