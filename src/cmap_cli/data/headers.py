"""Format and size of pictures and arrays, read from their headers; the content of a file decides, not its name.

Whatever is wrong with a file becomes one `ImageError` that names the file (`explain`), here and in `images`.
"""

from __future__ import annotations

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from safetensors import safe_open

from cmap_cli.data.npy import npy_header, npz_headers
from cmap_cli.errors import CmapError, ImageError, UsageError, pip_install

PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif", ".hif", ".bmp", ".tif", ".tiff", ".gif"}
)
SUFFIXES = PICTURE_SUFFIXES | {".npy", ".npz", ".safetensors"}
READABLE = "PNG, JPEG, WebP, HEIC, BMP, TIFF, GIF, .npy, .npz and .safetensors can be read"

_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # others stay shut: EPS starts Ghostscript
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_SIDEWAYS = frozenset({5, 6, 7, 8})  # the EXIF orientations that swap width and height
_CHANNELS = (1, 3, 4)
MAX_PIXELS = 50_000_000
"""Width times height of one image; a larger one is refused by its header, before memory is taken."""
MAX_IMAGES = 250_000
"""Images in one array file."""
_KEYS_SHOWN = 12
_AXES = {2: ("HW",), 3: ("HWC", "CHW", "NHW"), 4: ("NHWC", "NCHW")}  # by dimensions, the likelier first

Image.MAX_IMAGE_PIXELS = None  # `read_image` has a limit of its own; Pillow's would be a warning on stderr

Kind = Literal["npy", "npz", "safetensors"]


def explain(path: Path, error: Exception) -> CmapError:
    """The error, one sentence and a hint, for an exception that was raised while `path` was read."""
    match error:
        case CmapError():
            return error
        case FileNotFoundError():
            return ImageError(f"{path} does not exist", "Was it moved, or is it a broken link?")
        case PermissionError():
            return ImageError(f"{path} may not be read: permission denied", f"Try: chmod u+rX '{path}'")
        case UnidentifiedImageError():
            return ImageError(f"{path} is not an image of a known format", READABLE)
        case MemoryError():
            return ImageError(f"{path} does not fit into memory", "Split it, or make it smaller")
    cause = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{path} cannot be read, it may be damaged or cut short: {cause}", "Copy or download it again")


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Opens a picture with only its header read; whatever goes wrong until it is closed is explained.

    Raises:
        ImageError: the file is missing, empty, no regular file, not readable, not a picture or damaged.
    """
    try:
        _check_regular(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is not worth a line on stderr
            # A stream and not a path: Pillow maps a file it has the path of, and garbles a turned TIFF by that.
            with path.open("rb") as stream, Image.open(stream, formats=_formats(path, stream)) as picture:
                yield picture
    except Exception as error:  # Pillow's plugins raise whatever the bytes lead them to
        raise explain(path, error) from error


def _formats(path: Path, stream: BinaryIO) -> tuple[str, ...]:
    """The formats that a file may have; HEIC needs pillow-heif (ImageError)."""
    start = stream.read(12)
    stream.seek(0)
    if start[4:8] != b"ftyp" or start[8:] not in _HEIF_BRANDS:
        return _PILLOW_FORMATS
    try:
        import pillow_heif
    except ImportError as error:
        hint = pip_install("heic")
        raise ImageError(f"{path} is a HEIC picture, which needs pillow-heif to be read", hint) from error
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of a picture as a viewer shows it, from its header.

    Raises:
        ImageError: as `open_picture`.
    """
    with open_picture(path) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # whose size is upright already, or not, by Pillow's version
            width, height = picture.tag_v2[ExifTags.Base.ImageWidth], picture.tag_v2[ExifTags.Base.ImageLength]
        orientation = None
        # Without this condition Pillow decodes a whole PNG in search of EXIF data behind its pixels.
        if picture.format != "PNG" or "exif" in picture.info:
            with suppress(Exception):  # a viewer shows a picture with broken EXIF data as it is stored
                orientation = picture.getexif().get(ExifTags.Base.Orientation)
        check_pixels(str(path), width, height)
        return (height, width) if orientation in _SIDEWAYS else (width, height)


def check_pixels(what: str, width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Refuse an image by its size in pixels (ImageError)."""
    if width * height > most:
        raise ImageError(
            f"{what} is {width} x {height} pixels, more than the limit of {most:,} pixels",
            "Make it smaller first, or leave it out",
        )


@dataclass(frozen=True, slots=True)
class ArrayImages:
    """The images in an array file.

    Attributes:
        kind: the format of the file.
        key: the array's name; None for .npy.
        shape: of the whole array.
        axes: what its dimensions mean, one letter each, as "NCHW".
    """

    kind: Kind
    key: str | None
    shape: tuple[int, ...]
    axes: str

    @property
    def count(self) -> int | None:
        """How many images; None for a single one without a batch axis."""
        return self.shape[0] if self.axes[0] == "N" else None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of each image in pixels."""
        return self.shape[self.axes.index("W")], self.shape[self.axes.index("H")]


def inspect_array(path: Path, key: str | None = None) -> ArrayImages | None:
    """Reads the header of a NumPy or safetensors file; no pixel is loaded.

    An array is (H, W), (H, W, C), (C, H, W) or a batch of these with C one of 1, 3, 4. A shape with two
    readings is taken as channels last, and (N, H, W) with N one of 1, 3, 4 as one image (C, H, W).

    Args:
        path: the file. Its content decides what it is, but a file with a picture's suffix counts as a picture.
        key: which array of an .npz or .safetensors file; None for the only one that looks like images.

    Returns:
        What is in it, or None when it is not an array file.

    Raises:
        UsageError: `key` is not in the file, or is needed to choose.
        ImageError: the file is damaged, or the array does not have the shape of images.
    """
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return None
    try:
        _check_regular(path)
        kind = _array_kind(path)
        if kind is None:
            return None
        status = path.stat()
        shapes = _array_shapes(path, kind, status.st_mtime_ns, status.st_size)
    except Exception as error:  # as for Pillow
        raise explain(path, error) from error
    key = "" if kind == "npy" else _choose_key(path, shapes, key)
    shape = shapes[key]
    axes = _axes(shape)
    if not axes or 0 in shape:
        hint = "Images are (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, or a batch of these"
        raise ImageError(f"{path} does not hold images: its array has the shape {shape}", hint)
    array = ArrayImages(kind, key or None, shape, axes)
    check_pixels(str(path), *array.size)
    if (array.count or 0) > MAX_IMAGES:
        raise ImageError(
            f"{path} holds {array.count:,} images, more than the limit of {MAX_IMAGES:,} per file",
            "Split it into several files",
        )
    return array


def _axes(shape: tuple[int, ...]) -> str:
    """The meaning of each dimension; "" for a shape that images do not have."""
    readings = (axes for axes in _AXES.get(len(shape), ()) if "C" not in axes or shape[axes.index("C")] in _CHANNELS)
    return next(readings, "")


def _check_regular(path: Path) -> None:
    """Refuses files that cannot be read as images: pipes, devices, folders, empty files."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path} is a folder, not an image", "Name the folder itself to do all it holds")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path} is not a regular file", "Save the image to a file first")
    if status.st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes)", "Copy or download it again")


def _array_kind(path: Path) -> Kind | None:
    with path.open("rb") as stream:
        start = stream.read(9)
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if start.startswith(b"PK"):
        return "npz"
    return "safetensors" if start[8:] == b"{" else None  # after the eight bytes of the header's length


@lru_cache(maxsize=1)  # every image of a batch asks again
def _array_shapes(path: Path, kind: Kind, modified: int, size: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array in the file by name; the name is "" in an .npy file."""
    if kind == "npy":
        return {"": npy_header(path).shape}
    if kind == "npz":
        return {name: header.shape for name, header in npz_headers(path).items() if header.is_numeric}
    with safe_open(path, "np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _choose_key(path: Path, shapes: dict[str, tuple[int, ...]], key: str | None) -> str:
    """The key that was asked for, or that of the only array which can be images."""
    names = list(shapes)
    if key is None and len(names) > 1:
        axes = {name: _axes(shape) for name, shape in shapes.items()}
        names = [name for name in names if "C" in axes[name]] or [name for name in names if axes[name] == "NHW"]
    if key in names or (key is None and len(names) == 1):
        return key or names[0]
    if not shapes:
        raise ImageError(f"{path} holds no array", READABLE)
    listed = ", ".join(list(shapes)[:_KEYS_SHOWN]) + (", ..." if len(shapes) > _KEYS_SHOWN else "")
    what = f"{path} has no array {key!r}" if key is not None else f"it is not clear which array of {path} to take"
    raise UsageError(f"{what}; it holds {listed}", f"Name one of them after a colon: {path}:{next(iter(shapes))}")
