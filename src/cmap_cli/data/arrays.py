"""Images and their labels in one .npy, .npz or .safetensors file -> Listing. Only the header of the images is read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import safe_open

from cmap_cli.data.headers import explain, inspect_array
from cmap_cli.data.inputs import Source
from cmap_cli.data.labels import LABELS_HINT
from cmap_cli.data.listing import UNKNOWN, Listing
from cmap_cli.data.npy import NpzArray, npz_headers
from cmap_cli.errors import CmapError, ImageError, UsageError, raise_all


def list_array(path: Path, key: str | None, usual: Sequence[str] = ()) -> Listing:
    """The images of an .npy, .npz or .safetensors file, with the labels y_NAME or y that belong to x_NAME.

    Args:
        path: the file.
        key: the array of images; None for the first of `usual`, else the only one that looks like images.
        usual: names of arrays of images.

    Raises:
        UsageError: there are no such images, or the labels do not fit them.
    """
    try:
        names = _array_names(path)
        array = inspect_array(path, key or next((name for name in usual if name in names), None))
        if array is None:
            raise UsageError(f"{path} is not an array file", "Save it as .npy, .npz or .safetensors")
        of_key = next((n for n in (f"y{(array.key or '')[1:]}", "y") if n in names and n != array.key), None)
        labels = None if of_key is None else read_array(path, of_key)
    except ImageError as error:
        raise UsageError(error.message, error.hint) from error
    count = 1 if array.count is None else array.count
    if labels is None:
        labels = np.full(count, UNKNOWN)
    what = f"{path}:{of_key}"
    problems: list[CmapError] = []
    if labels.dtype.kind not in "iu":
        problems.append(UsageError(f"{what} has numbers of type {labels.dtype}", LABELS_HINT))
    if labels.shape != (count,):
        images = f"{count} images" if count > 1 else "one image"
        problems.append(UsageError(f"{what} has the shape {labels.shape}, but there are {images}", LABELS_HINT))
    if not problems and labels.min() < 0 and not (labels == UNKNOWN).all():
        problems.append(UsageError(f"{what} has the label {labels.min()}", LABELS_HINT))
    raise_all(problems, str(path))
    folder = PurePosixPath(path.name)
    places = [folder if array.count is None else folder / f"{index:06d}" for index in range(count)]
    indices = [None] if array.count is None else range(count)
    sources = tuple(Source(path, index, array.key, place) for index, place in zip(indices, places, strict=True))
    return Listing(sources, tuple(map(int, labels)), tuple(map(str, places)))


def list_array_folder(folder: Path, usual: Sequence[str] = ()) -> Listing | None:
    """The images of all .safetensors files of a folder, as cmap attack writes them; None if it holds anything else.

    Raises:
        UsageError: as :func:`list_array`.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths or any(path.suffix.lower() != ".safetensors" or not path.is_file() for path in paths):
        return None
    listings = [list_array(path, None, usual) for path in paths]
    return Listing(
        tuple(source for each in listings for source in each.sources),
        tuple(label for each in listings for label in each.labels),
        tuple(key for each in listings for key in each.keys),
    )


def _array_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a file; none in .npy (ImageError if it is damaged)."""
    try:
        if path.suffix.lower() == ".npz":
            return tuple(npz_headers(path))
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "np") as tensors:
                return tuple(tensors.keys())
    except Exception as error:  # of zipfile, NumPy and safetensors
        raise explain(path, error) from error
    return ()


def read_array(path: Path, name: str) -> np.ndarray[Any, Any]:
    """One whole array of an .npz or .safetensors file (ImageError if it is damaged)."""
    try:
        if path.suffix.lower() == ".npz":
            with closing(NpzArray(path, name)) as array:
                return array.whole()
        with safe_open(path, "np") as tensors:
            return np.asarray(tensors.get_tensor(name))
    except Exception as error:
        raise explain(path, error) from error
