"""The files of attacked images are read as what they are, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from cmap_cli.benchmarking.export import read_pair
from cmap_cli.errors import UsageError

IMAGES = torch.arange(24.0).reshape(2, 3, 2, 2) / 24


def test_a_row_is_the_clean_and_the_attacked_image(tmp_path: Path) -> None:
    save_file({"x": IMAGES, "x_adv": 1 - IMAGES}, tmp_path / "a.safetensors")
    x, x_adv = read_pair(tmp_path / "a.safetensors", 1)
    assert torch.equal(x, IMAGES[1])
    assert torch.equal(x_adv, 1 - IMAGES[1])


@pytest.mark.parametrize(
    ("tensors", "row"),
    [
        ({"x": IMAGES}, 0),
        ({"x": IMAGES, "x_adv": IMAGES + 0}, 2),
        ({"x": IMAGES, "x_adv": IMAGES + 0}, 2**70),
        ({"x": IMAGES, "x_adv": IMAGES[..., :1].contiguous()}, 0),
        ({"x": IMAGES, "x_adv": IMAGES.flatten(1) + 0}, 0),
        ({"x": IMAGES, "x_adv": IMAGES.to(torch.uint8)}, 0),
        ({"x": IMAGES, "x_adv": torch.tensor(0.5)}, 0),
        ({"x": IMAGES, "x_adv": IMAGES * float("nan")}, 0),
    ],
    ids=["no x_adv", "no row", "huge row", "other shape", "no images", "no floats", "a number", "not finite"],
)
def test_files_that_no_attack_has_written_are_refused(tensors: dict[str, Tensor], row: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(UsageError, match=r"a.safetensors is damaged or of another program"):
        read_pair(path, row)


@pytest.mark.parametrize("content", [b"", b"no tensors", save({"x": IMAGES, "x_adv": IMAGES + 0})[:-1]])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a.safetensors is damaged or of another program"):
        read_pair(path, 0)
    with pytest.raises(UsageError, match=r"b.safetensors is damaged or of another program"):
        read_pair(tmp_path / "b.safetensors", 0)
