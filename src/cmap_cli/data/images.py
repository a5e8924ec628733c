"""One image file <-> one tensor in [0, 1], with the colours and orientation that a viewer shows."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save as save_safetensors

from cmap_cli.data.colour import to_srgb
from cmap_cli.data.headers import MAX_PIXELS, ArrayImages, check_pixels, explain, open_picture
from cmap_cli.data.inputs import Source, inspect_source
from cmap_cli.data.npy import npy_item, npz_array
from cmap_cli.errors import CmapError, ImageError, OutOfSpaceError
from cmap_cli.files import write_bytes

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, the weights of Pillow's "L"
_TOLERANCE = 1e-6
_OPAQUE = frozenset({".bmp", ".jpg", ".jpeg"})
_PICTURE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True, "exact": True},  # exact: clear pixels keep their colour
    ".tiff": {"format": "TIFF"},
    ".tif": {"format": "TIFF"},
    ".bmp": {"format": "BMP"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An image in memory.

    Attributes:
        pixels: (C, H, W) float32 in [0, 1]; three channels are RGB, one is luminance. Clear pixels have the
            colour that the file gives them.
        alpha: (H, W) float32 in [0, 1], 1 is opaque; None if the file contains no transparency.
        grey: whether the file has one channel of luminance, which may be repeated in ``pixels``.
    """

    pixels: torch.Tensor
    alpha: torch.Tensor | None
    grey: bool


def read_image(source: Source, channels: Literal[1, 3] = 3, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Reads one image, upright by its EXIF data, with palettes expanded, in sRGB.

    8 bits are divided by 255, 16 bits by 65535; floating point has to be in [0, 1] already. The first
    frame of an animation and the first page of a TIFF are read. An ICC profile is applied, except to 16-bit and
    floating-point pictures: colours of Display P3, Adobe RGB or CMYK become those of sRGB that look alike.

    Args:
        source: what to read.
        channels: 3 repeats a grey image; 1 takes the luminance of a colour image.
        max_pixels: the largest width times height; checked in the header, before memory is taken.

    Raises:
        ImageError: the file is not there, not readable, too large, damaged or not an image.
    """
    array = inspect_source(source)
    if array is None:
        with open_picture(source.path) as picture:
            check_pixels(str(source), *picture.size, max_pixels)
            planes = _decode(source, picture)
    else:
        check_pixels(str(source), *array.size, max_pixels)
        planes = _load_array(source, array)
    alpha = planes[-1].clone() if len(planes) in (2, 4) else None
    pixels = planes[:1] if len(planes) <= 2 else planes[:3]
    return DecodedImage(to_channels(pixels, channels), alpha, grey=len(pixels) == 1)


def to_channels(pixels: torch.Tensor, channels: int) -> torch.Tensor:
    """Pixels (1 or 3, H, W) in [0, 1] -> (channels, H, W): grey is repeated; colour is reduced to its luminance."""
    if channels == 1 and len(pixels) == 3:
        pixels = torch.einsum("c,chw->hw", torch.tensor(_LUMINANCE), pixels).clamp(0, 1)[None]
    return pixels.expand(channels, -1, -1).contiguous()


def _decode(source: Source, picture: Image.Image) -> torch.Tensor:
    """The planes of an open picture: L, LA, RGB or RGBA, (C, H, W) in [0, 1]."""
    picture.load()
    with suppress(Exception):  # a viewer shows a picture with broken EXIF data as it is stored
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        values = np.asarray(picture)
        if picture.mode == "I":  # 32-bit integers: nothing says what white is but that 16 bits are common
            _check_range(source, values, 65535)
            values = values.astype(np.uint16)
        clear = picture.info.get("transparency")  # a PNG can name one grey level that is clear
        alpha = [] if clear is None else [torch.from_numpy(values != clear).float()]
        return torch.stack([_scale(source, values), *alpha])
    profile = picture.info.get("icc_profile")
    if picture.mode != "CMYK":
        mode = "L" if picture.mode in ("1", "L", "LA", "La") else "RGB"
        picture = picture.convert(f"{mode}A" if picture.has_transparency_data else mode)
    return _channels_first(_scale(source, np.asarray(to_srgb(picture, profile))))


def _load_array(source: Source, array: ArrayImages) -> torch.Tensor:
    """The planes of one image of an array file, (C, H, W) in [0, 1]."""
    path, index = source.path, source.index
    try:
        match array.kind:
            case "npy":
                values = npy_item(path, index)
            case "npz":
                values = npz_array(path, path.stat().st_mtime_ns, array.key or "").item(index)
            case "safetensors":
                with safe_open(path, "pt") as tensors:
                    tensor = tensors.get_slice(array.key)[slice(None) if index is None else index]
                values = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception as error:  # of zipfile, zlib, NumPy and safetensors
        raise explain(path, error) from error
    planes = _scale(source, values)
    return planes if array.axes.endswith("CHW") else _channels_first(planes)


def _channels_first(values: torch.Tensor) -> torch.Tensor:
    return values[None] if values.dim() == 2 else values.movedim(-1, 0)


def _scale(source: Source, values: np.ndarray[Any, Any]) -> torch.Tensor:
    """Numbers of any supported type as float32 in [0, 1]; the shape is kept."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return torch.from_numpy(values.astype(np.float32)).div_(np.iinfo(values.dtype).max)
    if values.dtype.kind != "f":
        hint = "Save it as uint8 in 0..255, uint16 in 0..65535 or float in 0..1"
        raise ImageError(f"{source} has numbers of type {values.dtype}", hint)
    _check_range(source, values, 1, _TOLERANCE)
    return torch.from_numpy(values.astype(np.float32)).clamp(0, 1)


def _check_range(source: Source, values: np.ndarray[Any, Any], most: int, tolerance: float = 0) -> None:
    low, high = values.min(), values.max()  # NaN if any value is, and then no comparison holds
    if not (low >= -tolerance and high <= most + tolerance):
        hint = f"Values must be in 0..{most}: scale them, or look for what is wrong with them"
        raise ImageError(f"{source} has values from {low:g} to {high:g}", hint)


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Rounds values in [0, 1] to the nearest of 0..255, as they are saved; any shape, on any device."""
    return pixels.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)


def write_image(path: Path, pixels: torch.Tensor, alpha: torch.Tensor | None = None) -> None:
    """Writes one image whole or not at all, under a temporary name first; parent folders are made.

    Pictures have 8 bits per channel; nothing else is lost, except in JPEG (quality 95, full colour resolution).
    Arrays are float32, (C, H, W), named "image"; with an `alpha` they are RGBA.

    Args:
        path: its suffix is the format, one of `outputs.FORMATS` or .tif, .jpeg.
        pixels: (C, H, W) in [0, 1], C is 1 or 3.
        alpha: (H, W) in [0, 1].

    Raises:
        ImageError: the format cannot hold the image, or the file cannot be written.
        OutOfSpaceError: the disk is full or a quota is reached.
    """
    if not torch.isfinite(pixels).all():
        raise ImageError(f"{path} is not written: not all of its pixels are finite", "Try --device cpu")
    if alpha is not None and path.suffix.lower() in _OPAQUE:
        raise ImageError(f"{path} cannot hold the transparency of its image", "Try --format png, webp or tiff")
    try:
        encoded = _encode(path.suffix.lower(), pixels.detach().cpu(), None if alpha is None else alpha.cpu())
    except Exception as error:  # of Pillow's encoders, such as a side longer than the format can hold
        raise ImageError(f"{path} cannot be encoded: {error}", "Try --format png") from error
    try:
        write_bytes(path, encoded)
    except OutOfSpaceError:
        raise
    except CmapError as error:
        raise ImageError(error.message, "Choose another --out") from error


def _encode(suffix: str, pixels: torch.Tensor, alpha: torch.Tensor | None) -> bytes:
    """The bytes of a file, made in memory: an encoder that writes to a full disk raises an error without errno."""
    buffer = io.BytesIO()
    if suffix in _PICTURE_OPTIONS:
        planes = pixels if alpha is None else torch.cat([pixels, alpha[None]])
        values = to_uint8(planes).movedim(0, -1).contiguous().numpy()  # L, LA, RGB or RGBA
        picture = Image.fromarray(values[..., 0] if len(planes) == 1 else values)
        picture.save(buffer, **_PICTURE_OPTIONS[suffix])
        return buffer.getvalue()
    planes = pixels if alpha is None else torch.cat([pixels.expand(3, -1, -1), alpha[None]])
    planes = planes.float().clamp(0, 1).contiguous()
    match suffix:
        case ".npy":
            np.save(buffer, planes.numpy())
        case ".npz":
            np.savez(buffer, image=planes.numpy())
        case ".safetensors":
            buffer.write(save_safetensors({"image": planes}))
        case _:
            raise ValueError(f"there is no format {suffix!r}")
    return buffer.getvalue()
