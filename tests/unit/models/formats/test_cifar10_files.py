from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import cifar10
from cmap_cli.models.weights.documents import Artefact

BATCH = 7


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray, str]:
    """Six small batches of images and labels, and the hash of their contents."""
    monkeypatch.setattr(cifar10, "BATCH", BATCH)
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (6 * BATCH, 32, 32, 3), np.uint8)
    y = random.integers(0, 10, 6 * BATCH).astype(np.uint8)
    digest = hashlib.sha256(x[: 5 * BATCH].tobytes() + y[: 5 * BATCH].tobytes())
    digest.update(x[5 * BATCH :].tobytes() + y[5 * BATCH :].tobytes())
    return x, y, digest.hexdigest()


def dataset(contents_sha256: str) -> Artefact:
    """The entry of a data set with these contents."""
    return Artefact(
        name="cifar10",
        kind="dataset",
        architecture="cifar10",
        licence="",
        page="",
        sources=(),
        contents_sha256=contents_sha256,
    )


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def binary(x: np.ndarray, y: np.ndarray) -> dict[str, bytes]:
    records = np.concatenate([y[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], 1)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    return {f"cifar-10-batches-bin/{n}": records[i * BATCH :][:BATCH].tobytes() for i, n in enumerate(names)}


def test_both_forms_hold_the_same_images(tmp_path: Path, batches: tuple[np.ndarray, np.ndarray, str]) -> None:
    x, y, digest = batches
    sheets = {}
    for index, name in enumerate([f"data_batch_{number}.png" for number in range(1, 6)] + ["test_batch.png"]):
        buffer = io.BytesIO()
        Image.fromarray(x[index * BATCH :][:BATCH].reshape(BATCH, 1024, 3)).save(buffer, "PNG")
        sheets[f"package/{name}"] = buffer.getvalue()
    sheets["package/train_lables.json"] = json.dumps(y[: 5 * BATCH].tolist()).encode()
    sheets["package/test_lables.json"] = json.dumps(y[5 * BATCH :].tolist()).encode()
    ours = cifar10.read_binary_archive(archive(tmp_path / "a.tar.gz", binary(x, y)), dataset(digest))
    theirs = cifar10.read_tfjs_package(archive(tmp_path / "b.tgz", sheets), dataset(digest))
    for converted in (ours, theirs):
        assert (converted.tensors["x_train"].numpy() == x[: 5 * BATCH]).all()
        assert (converted.tensors["y_test"].numpy() == y[5 * BATCH :]).all()
    with pytest.raises(WeightsError, match="does not hold the images and labels of CIFAR-10"):
        cifar10.read_tfjs_package(tmp_path / "b.tgz", dataset("0" * 64))


def test_archives_that_are_something_else_are_refused(
    tmp_path: Path, batches: tuple[np.ndarray, np.ndarray, str]
) -> None:
    x, y, digest = batches
    files = binary(x, y)
    name = "cifar-10-batches-bin/test_batch.bin"
    for change, message in (
        ({name: files[name][:-1]}, "bytes, not"),
        ({name: files[name] + b"x"}, "too many"),
        ({name: b"", "../../test_batch.bin": files[name]}, "bytes, not"),
    ):
        with pytest.raises(WeightsError, match=message):
            cifar10.read_binary_archive(archive(tmp_path / "a.tar.gz", files | change), dataset(digest))
    del files[name]
    with pytest.raises(WeightsError, match=f"holds no {name}"):
        cifar10.read_binary_archive(archive(tmp_path / "a.tar.gz", files), dataset(digest))
    whole = (tmp_path / "a.tar.gz").read_bytes()
    for content in (b"no archive", whole[: len(whole) // 2]):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(WeightsError, match="is no such archive"):
            cifar10.read_binary_archive(tmp_path / "broken", dataset(digest))


def test_nothing_is_unpacked_where_an_archive_says(tmp_path: Path, batches: tuple[np.ndarray, np.ndarray, str]) -> None:
    x, y, digest = batches
    inside = tmp_path / "inside"
    inside.mkdir()
    evil = {"../escaped": b"x", f"{tmp_path}/escaped-too": b"x", **binary(x, y)}
    cifar10.read_binary_archive(archive(inside / "a.tar.gz", evil), dataset(digest))
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
