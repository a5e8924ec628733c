"""The pictures of an example: clean, adversarial, perturbation, purified, residual, embedded in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from cmap_cli.benchmarking.report.values import Example

GAIN, RESIDUAL_GAIN = 10, 3
SMALL, LARGEST = 128, 256
"""Pictures with sides up to SMALL are embedded as PNG, larger ones as WebP with sides of at most LARGEST."""
QUALITY = 90

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures as ``data:`` addresses; without a purified image ``purified`` and ``residual`` are None.

    Attributes:
        clean: the clean image.
        adversarial: the attacked image.
        perturbation: ½ + 10 (x_adv − x); grey where nothing was changed.
        purified: the purified attacked image.
        residual: ½ + 3 (purified − x): the rest of the attack and the changes by purification.
        large: whether the image is large, such as a photograph, and shown in its own size.
    """

    clean: str
    adversarial: str
    perturbation: str
    purified: str | None
    residual: str | None
    large: bool = False


def read_pictures(folder: Path, example: Example) -> Pictures | None:
    """The pictures of an example; None if its file or row is missing or cannot be shown."""
    path = folder / example.file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            return None
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            x, x_adv = (file.get_slice(name)[example.row] for name in ("x", "x_adv"))
            purified = file.get_slice("purified")[example.row] if "purified" in names else None
        return Pictures(
            clean=encoded(x),
            adversarial=encoded(x_adv),
            perturbation=encoded(0.5 + GAIN * (x_adv - x)),
            purified=None if purified is None else encoded(purified),
            residual=None if purified is None else encoded(0.5 + RESIDUAL_GAIN * (purified - x)),
            large=max(x.shape[1:]) > SMALL,
        )
    except (OSError, SafetensorError, IndexError, ValueError):
        return None


def encoded(pixels: Pixels) -> str:
    """Encode an image (C, H, W) in [0, 1] with one or three channels, clipped, and reduced if it is large."""
    channels, height, width = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"an image of {channels} channels cannot be shown")
    values = np.nan_to_num(np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (3, height, width)).transpose(1, 2, 0)))
    buffer = io.BytesIO()
    if max(height, width) <= SMALL:
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        picture.save(buffer, "WEBP", quality=QUALITY)
        kind = "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
