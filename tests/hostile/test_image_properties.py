"""Property-based tests of the readers of foreign bytes: whatever comes in, only errors of ours come out.

They run briefly in the checks; ``nox -s fuzz`` runs the same strategies for an hour.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmap_cli.attacks.threat import parse_threat
from cmap_cli.data.images import read_image
from cmap_cli.data.inputs import discover, image_size
from cmap_cli.errors import CmapError, ImageError
from cmap_cli.models.preprocessing import parse_normalisation
from cmap_cli.runs.shard import parse_shard
from tests.hostile.corpus import corpus, npy, npz, picture, safetensors
from tests.hostile.strategies import damaged, fuzz

SUFFIXES = (".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif", ".npy", ".npz", ".safetensors")


def read_all(path: Path) -> None:
    """List and read what is in a file; only errors of ours are raised."""
    try:
        sources = discover([str(path)]).sources
    except CmapError:
        return
    for source in sources[:3]:
        try:
            image_size(source)
            pixels = read_image(source).pixels
        except ImageError:
            continue
        assert pixels.ndim == 3
        assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


PICTURES = [picture(kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")]
ARRAYS = [
    npy("(2, 8, 8, 3)", content=bytes(384)),
    npz({"x.npy": npy("(2, 8, 8, 3)", content=bytes(384)), "y.npy": npy("(2,)", "<i8", bytes(16))}),
    safetensors(b'{"x":{"dtype":"U8","shape":[2,8,8,3],"data_offsets":[0,384]}}', bytes(384)),
]


@fuzz
@given(content=damaged(PICTURES + ARRAYS), suffix=st.sampled_from(SUFFIXES))
def test_damaged_images(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    read_all(path)


@fuzz
@given(content=st.binary(max_size=200), suffix=st.sampled_from(SUFFIXES))
def test_any_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    read_all(path)


@fuzz
@given(
    shape=st.lists(st.integers(-3, 2**64), max_size=5),
    descr=st.sampled_from(["|u1", "<u2", ">u2", "<f4", ">f8", "<f2", "|S0", "|O", "|b1", "<i4", "<c8", "<U3", "|V8"]),
    count=st.integers(0, 400),
    fortran=st.booleans(),
)
def test_npy_headers(tmp_path: Path, shape: list[int], descr: str, count: int, fortran: bool) -> None:
    content = npy(str(tuple(shape)), descr, bytes(count), fortran=fortran)
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "y.npz").write_bytes(npz({"x.npy": content}))
    read_all(tmp_path / "x.npy")
    read_all(tmp_path / "y.npz")


@fuzz
@given(norm=st.text(max_size=6), eps=st.one_of(st.text(max_size=12), st.from_regex(r"-?[0-9]{1,40}(/[0-9]{1,40})?")))
def test_threats(norm: str, eps: str) -> None:
    for each in (norm, "Linf", "l2"):
        try:
            threat = parse_threat(each, eps)
        except CmapError:
            continue
        assert 0 < threat.eps < float("inf")


@fuzz
@given(text=st.text(max_size=20))
def test_random_text_as_shard_and_normalisation(text: str) -> None:
    for parse in (parse_shard, parse_normalisation):
        try:
            parse(text)  # type: ignore[operator]
        except CmapError:
            continue


@pytest.mark.parametrize("name", [name for name in corpus() if name.endswith(".npz")])
def test_npz_files_of_the_corpus_raise_only_errors_of_cmap(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(corpus()[name])
    read_all(tmp_path / name)


def test_good_files_are_read(tmp_path: Path) -> None:
    for number, content in enumerate(ARRAYS[:2]):
        path = tmp_path / f"x{number}{('.npy', '.npz')[number]}"
        path.write_bytes(content)
        assert len(discover([str(path)]).sources) == 2
        assert np.count_nonzero(read_image(discover([str(path)]).sources[1]).pixels) == 0
