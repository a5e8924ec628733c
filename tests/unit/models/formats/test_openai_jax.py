from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.openai_jax import convert_jax, read_parameters
from tests.openai_weights import (
    TINY_STATE,
    TINY_STATE_WITH_TARGET,
    deterministic_parameters,
    encode,
    layout,
    write_checkpoint,
)

KERNEL = "ResnetBlockBigGANpp_0/Conv_0/kernel"


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    return deterministic_parameters(layout("tiny"))


@pytest.mark.parametrize("path", [TINY_STATE, TINY_STATE_WITH_TARGET])
def test_the_averaged_parameters_are_read(path: Path, parameters: dict[str, np.ndarray]) -> None:
    read = read_parameters(path)
    assert read.keys() == parameters.keys()
    for name, array in read.items():
        np.testing.assert_allclose(array, parameters[name], rtol=1e-6)
        assert array.dtype == np.float32
    np.testing.assert_array_equal(read_parameters(path, "params")[KERNEL], 0.5 * read[KERNEL])


def test_checkpoints_of_the_tests_are_as_the_original_code_writes_them(
    tmp_path: Path, parameters: dict[str, np.ndarray]
) -> None:
    for original, with_target in ((TINY_STATE, False), (TINY_STATE_WITH_TARGET, True)):
        write_checkpoint(tmp_path / "state", parameters, with_target=with_target)
        keys = [
            list(msgpack.unpackb(path.read_bytes(), strict_map_key=False)) for path in (original, tmp_path / "state")
        ]
        assert keys[0] == keys[1]
        ours, theirs = convert_jax(tmp_path / "state"), convert_jax(original)
        assert ours.description == theirs.description
        assert ours.layout_sha256 == theirs.layout_sha256
        for key, tensor in theirs.tensors.items():
            torch.testing.assert_close(ours.tensors[key], tensor)
            assert ours.tensors[key].is_contiguous()


@pytest.mark.parametrize("content", [b"", b"not msgpack", b"PK\x03\x04 a zip file", b"\x93\x01\x02\x03", b"\xc1"])
def test_files_that_are_no_msgpack_map_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(WeightsError, match="is not a msgpack map"):
        convert_jax(tmp_path / "state")


def with_kernel(value: Any) -> Callable[[dict[str, np.ndarray]], dict[str, Any]]:
    return lambda parameters: {**parameters, KERNEL: value(parameters[KERNEL])}


def spoilt(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[0, 0, 0, 0] = value
    return array


def claim(shape: list[Any], dtype: str = "float32", data: bytes = b"\0" * 16) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("an array is float16, not float32", with_kernel(lambda a: a.astype(np.float16))),
        ("an array is float64, not float32", with_kernel(lambda a: a.astype(np.float64))),
        (f"infinite values or NaN in {KERNEL}", with_kernel(lambda a: spoilt(a, np.nan))),
        (f"infinite values or NaN in {KERNEL}", with_kernel(lambda a: spoilt(a, np.inf))),
        (f"{KERNEL} has the shape", with_kernel(lambda a: a[:, :, :, :-1])),
        (f"{KERNEL} has the shape", with_kernel(np.ravel)),
        (f"lacks {KERNEL}", lambda p: {k: v for k, v in p.items() if k != KERNEL}),
        ("also holds Conv_2/kernel", lambda p: {**p, "Conv_2/kernel": np.zeros((3, 3), np.float32)}),
        ("has no vector GaussianFourierProjection_0/W", lambda p: {"Dense_0/kernel": p["Dense_0/kernel"]}),
        ("in chunks", with_kernel(lambda _: {"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}})),
        (f"holds no array in {KERNEL} but int", with_kernel(lambda _: 3)),
        (f"holds no array in {KERNEL} but ExtType", with_kernel(lambda a: msgpack.ExtType(3, encode(a).data))),
        ("has 16 bytes", with_kernel(lambda _: claim([2**40]))),
        ("has 16 bytes", with_kernel(lambda _: claim([3]))),
        ("has no shape, dtype and bytes", with_kernel(lambda _: claim([-4]))),
        ("has no shape, dtype and bytes", with_kernel(lambda _: claim([0, 2**63], data=b""))),
        ("has no shape, dtype and bytes", with_kernel(lambda _: claim(["4"]))),
        ("has no shape, dtype and bytes", with_kernel(lambda _: msgpack.ExtType(1, b"\x90"))),
        ("is not valid msgpack", with_kernel(lambda _: msgpack.ExtType(1, b"\x93\x90"))),
        ("is not valid msgpack", with_kernel(lambda _: claim([1] * 65))),
        ("is not valid msgpack", lambda p: {**p, "x" * 2000: p[KERNEL]}),
    ],
)
def test_bad_parameters_are_refused(
    message: str,
    change: Callable[[dict[str, np.ndarray]], dict[str, Any]],
    parameters: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    write_checkpoint(tmp_path / "state", change(parameters))
    with pytest.raises(WeightsError, match=message):
        convert_jax(tmp_path / "state")


def test_a_state_without_averaged_parameters_is_refused(tmp_path: Path, parameters: dict[str, np.ndarray]) -> None:
    write_checkpoint(tmp_path / "state", parameters, params_ema=None)
    with pytest.raises(WeightsError, match="has no entry params_ema"):
        convert_jax(tmp_path / "state")
    write_checkpoint(tmp_path / "state", parameters, params_ema=parameters[KERNEL])
    with pytest.raises(WeightsError, match="is not an NCSN"):
        convert_jax(tmp_path / "state")


@pytest.mark.parametrize("part", [0.001, 0.3, 0.7, 0.9999])
def test_truncated_files_are_refused_wherever_they_end(part: float, tmp_path: Path) -> None:
    """The last one has all of params_ema."""
    content = TINY_STATE.read_bytes()
    (tmp_path / "state").write_bytes(content[: int(part * len(content))])
    with pytest.raises(WeightsError, match="is cut short"):
        convert_jax(tmp_path / "state")


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(TINY_STATE.read_bytes() + b"<html>")
    with pytest.raises(WeightsError, match="has 6 bytes after its end"):
        convert_jax(tmp_path / "state")


@pytest.mark.parametrize(
    ("message", "claimed"),
    [
        ("is not valid msgpack", b"\xdd\xff\xff\xff\xff"),  # a list of 4 billion
        ("is not valid msgpack", b"\xdf\xff\xff\xff\xff"),  # a map of 4 billion
        ("is cut short", b"\xc6\xff\xff\xff\xff"),  # 4 GB
        ("is not valid msgpack", b"\xc9\xff\xff\xff\xff\x01"),  # an array of 4 GB
        ("is not valid msgpack", b"\x91" * 5000),  # lists in lists
    ],
)
def test_sizes_that_are_only_claimed_take_no_memory(message: str, claimed: bytes, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"\x81" + msgpack.packb("params_ema") + claimed)
    tracemalloc.start()
    with pytest.raises(WeightsError, match=message):
        convert_jax(tmp_path / "state")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_memory_is_for_the_parameters_alone(tmp_path: Path, parameters: dict[str, np.ndarray]) -> None:
    """A state of 300 MB; the zeros are holes in the file."""
    size = 4_000_000
    header = encode(np.zeros(size // 4, np.float32)).data[:-size]
    header = b"\xc9" + struct.pack(">IB", len(header) + size, 1) + header
    path = tmp_path / "state"
    write_checkpoint(path, parameters)
    ema = msgpack.packb({"x": {k: encode(v) for k, v in parameters.items()}})
    with path.open("wb") as file:
        file.write(b"\x83")
        for name, value in (("params", b""), ("params_ema", ema), ("opt_state", b"")):
            file.write(msgpack.packb(name))
            file.write(value or msgpack.Packer().pack_map_header(38))
            for i in range(0 if value else 38):
                file.write(msgpack.packb(str(i)) + header)
                file.seek(size, 1)
        file.truncate()
    assert path.stat().st_size > 300e6
    tracemalloc.start()
    read = read_parameters(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read[f"x/{KERNEL}"], parameters[KERNEL])
    assert peak < 30e6


def test_a_value_too_large_for_the_network_is_told_from_a_short_file(tmp_path: Path) -> None:
    with (tmp_path / "state").open("wb") as file:
        file.write(b"\x81" + msgpack.packb("params") + b"\xc6" + struct.pack(">I", 100_000_000))
        file.truncate(100_000_013)
    with pytest.raises(WeightsError, match="larger than any of an NCSN"):
        convert_jax(tmp_path / "state")


def test_reading_needs_no_torch() -> None:
    code = "import sys, cmap_cli.models.formats.openai_jax; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
