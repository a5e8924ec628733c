"""The files of results: formats, the path of each result, and the checks before the first one is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from cmap_cli.choices import ImageFormat
from cmap_cli.data.headers import SUFFIXES
from cmap_cli.data.inputs import Source
from cmap_cli.errors import UsageError
from cmap_cli.files import probe

FORMATS: dict[ImageFormat, str] = {name: f".{name}" for name in get_args(ImageFormat)} | {"jpeg": ".jpg", "auto": ""}
"""Suffix of each format; "" is chosen for each input by :func:`lossless_suffix`."""
BMP_OPAQUE_BITS = 24
MOST_CHUNKS = 16
RIFF_HEADER = 12
"""Bytes before the first chunk of a WebP file."""


def output_path(source: Source, extension: str) -> Path:
    """The place of a result below the output folder.

    Args:
        source: the input.
        extension: the result's suffix, such as ".png", or "" for that of :func:`lossless_suffix`. It replaces
            the suffix of an image file, and no other suffix: "holiday.2024" becomes "holiday.2024.png".
    """
    relative, extension = source.relative, extension or lossless_suffix(source)
    if source.index is None and relative.suffix.lower() in SUFFIXES:
        return Path(relative.with_suffix(extension))
    return Path(relative.with_name(relative.name + extension))


def lossless_suffix(source: Source) -> str:
    """The suffix in the name of a TIFF, BMP or lossless WebP file; ".png" for all others.

    A BMP file with 32 bits per pixel also gets ".png": it may be transparent, which Pillow cannot write to BMP.
    """
    suffix = source.relative.suffix.lower() if source.index is None else ""
    if suffix in (".tif", ".tiff"):
        return suffix
    with suppress(OSError):  # a file that cannot be opened fails when it is read
        if suffix == ".bmp" and bits_of_bmp(source.path) <= BMP_OPAQUE_BITS:
            return suffix
        if suffix == ".webp" and is_lossless_webp(source.path):
            return suffix
    return ".png"


def bits_of_bmp(path: Path) -> int:
    """Bits per pixel in the header of a BMP file."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(30)[28:30], "little")


def is_lossless_webp(path: Path) -> bool:
    """Whether the first picture in a WebP file is stored without loss: whether a chunk VP8L comes before any VP8.

    Chunks are looked at one after another, at most MOST_CHUNKS of them. In an animation the picture is inside a
    chunk that is not opened, so an animation counts as lossy.
    """
    with path.open("rb") as file:
        file.seek(RIFF_HEADER)
        for _ in range(MOST_CHUNKS):
            header = file.read(8)
            if header[:4] in (b"VP8L", b"VP8 ", b"ANMF") or len(header) < 8:
                return header[:4] == b"VP8L"
            size = int.from_bytes(header[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
    return False


def check_collisions(sources: Iterable[Source], extension: str, out: Path) -> None:
    """Makes sure that no result overwrites another one or an input.

    Raises:
        UsageError: two inputs have the same place in `out`, or the place of a result is that of an input.
    """
    places: dict[str, Source] = {}
    real: dict[Path, str] = {}  # links are resolved once a folder: once a file takes too long for 100,000
    inputs = set()
    clashes = []
    for source in sources:
        folder, place = source.path.parent, str(output_path(source, extension))
        if folder not in real:
            real[folder] = str(folder.resolve())
        inputs.add(f"{real[folder]}/{source.path.name}")
        if (other := places.setdefault(place, source)) is not source:
            clashes.append(f"{other} and {source} would both be written to {out / place}")
    root = out.resolve()
    clashes += [f"{out / place} would overwrite that input" for place in places if f"{root}/{place}" in inputs]
    if clashes:
        more = f", and {len(clashes) - 1} more like this" if len(clashes) > 1 else ""
        raise UsageError(clashes[0] + more, "Choose another --out, or do them in separate runs")


def check_existing(sources: Iterable[Source], extension: str, out: Path, begun: Callable[[], bool]) -> None:
    """Makes sure that a new run overwrites no file that was there before it.

    Args:
        sources: the inputs.
        extension: the results' suffix.
        out: the output folder.
        begun: whether another process has begun this very run meanwhile, and written the file.

    Raises:
        UsageError: the place of a result is taken.
    """
    for source in sources:
        place = out / output_path(source, extension)
        if place.exists() and not begun():
            raise UsageError(f"{place} exists already and is of no earlier run", "Choose another --out, or --overwrite")


def check_output_folder(folders: Iterable[Path], out: Path) -> None:
    """Makes sure that results can be written to `out` and will not be inputs of the next run.

    Args:
        folders: the input folders, `Discovery.folders`.
        out: the output folder. If it does not exist, this makes sure that it can be made, and does not make it.

    Raises:
        UsageError: `out` is an input folder or in one, is a file or cannot be written to.
    """
    try:
        root = out.resolve()
        for folder in folders:
            if folder.resolve() in (root, *root.parents):
                hint = "Choose a folder beside the input"
                raise UsageError(f"--out {out} is in the input folder {folder}", hint)
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out} is a file", "Choose a folder, new or old")
        there = next(folder for folder in (out, *out.parents) if folder.exists())
        probe(there, out.relative_to(there))
    except (OSError, RuntimeError) as error:  # a circle of symbolic links is a RuntimeError up to Python 3.12
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--out {out} cannot be written to: {reason}", "Choose a folder of your own") from error
