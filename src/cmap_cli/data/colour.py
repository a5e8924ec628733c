"""Pictures with an ICC profile -> sRGB, which is what classifiers and consistency models were trained on."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SAME = 2
"""A picture whose profile changes no colour by more than this many of 255 levels counts as sRGB and is not changed."""


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture (L, LA, RGB, RGBA or CMYK) in sRGB; its transparency is kept, and CMYK becomes RGB.

    Args:
        picture: with 8 bits per channel.
        profile: the ICC profile that was in its file. If it is missing, damaged or for another kind of
            pixels, the picture is assumed to be in sRGB, or to have ideal inks.
    """
    if picture.mode in ("L", "LA"):
        table = _grey_table(profile) if profile else None
        return picture if table is None else picture.point([*table, *range(256)][: 256 * len(picture.getbands())])
    transform = _transform(profile, picture.mode) if profile else None
    if transform is None:
        return picture.convert("RGB") if picture.mode == "CMYK" else picture
    return transform.apply(picture)


@lru_cache(maxsize=8)  # the pictures of a folder are often of one camera
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of pictures of a mode to sRGB; None if the profile cannot be used, or changes nothing."""
    target = "RGBA" if mode == "RGBA" else "RGB"
    transform: ImageCms.ImageCmsTransform
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, target)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "CMYK":
        return transform
    levels: Any = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    probe = Image.fromarray(colours).convert(mode)
    before, after = (np.asarray(each.convert("RGB"), np.int16) for each in (probe, transform.apply(probe)))
    return None if np.abs(after - before).max() <= SAME else transform


@lru_cache(maxsize=8)
def _grey_table(profile: bytes) -> tuple[int, ...] | None:
    """The grey level in sRGB of each level of a grey picture; None as for :func:`_transform`."""
    transform = _transform(profile, "L")
    if transform is None:
        return None
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return tuple(int(level) for level in np.asarray(transform.apply(ramp))[0].mean(-1).round())
