"""``cmap train``, and ``cmap purify`` with what it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    """An array file of 40 grey-level ramps, 16×16."""
    ramp = np.linspace(0, 1, 16)[None, :, None] * np.ones((16, 1, 3))
    levels = np.random.RandomState(0).rand(40, 1, 1, 1)
    images = (255 * (ramp[None] * levels + (1 - levels) * 0.5)).round().astype(np.uint8)
    np.savez(tmp_path / "domain.npz", x_train=images, y_train=np.zeros(40, np.uint8))
    Image.fromarray(images[0]).save(tmp_path / "one.png")
    return tmp_path / "domain.npz"


UNET = ("--kind", "unet", "--images-seen", "24", "--batch-size", "4", "--widths", "16,16")


@pytest.mark.parametrize("kind", ["gaussian", "unet"])
def test_a_model_is_made_and_purifies(cmap: Run, domain: Path, tmp_path: Path, kind: str) -> None:
    options = UNET if kind == "unet" else ()
    run = cmap("train", "domain.npz:x_train", "--out", "model", "--image-size", "16", "--directions", "8", *options)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "model/model.safetensors"
    with Image.open(tmp_path / "model/samples.png") as sheet:
        assert sheet.size[0] > 800
    card = (tmp_path / "model/README.md").read_text()
    assert "cmap train domain.npz:x_train --out model" in card
    assert "images: 40" in card
    purified = cmap("purify", "one.png", "--out", "clean", "--model", "model", "--preset", "fast", "--json")
    assert purified.returncode == 0, purified.stderr
    assert json.loads(purified.stdout)["written"] == 1
    again = cmap("train", "domain.npz:x_train", "--out", "model", "--image-size", "16", *options)
    assert again.returncode == 2
    assert "holds a model already" in again.stderr


def test_grey_models_and_unreadable_training_images(cmap: Run, domain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (20 + index, 16), (index * 40, 10, 10)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"")
    run = cmap("train", "photos", "--out", "grey", "--image-size", "8", "--channels", "1", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert (document["images"], document["image shape"]) == (6, [1, 8, 8])
    assert "broken.png is empty" in run.stderr
    purified = cmap("purify", "photos/3.png", "--out", "clean", "--model", "grey", "--fit", "crop", "--preset", "fast")
    assert purified.returncode == 0, purified.stderr
    with Image.open(tmp_path / "clean/photos/3.png") as result:
        assert result.size == (8, 8)


def test_usage_errors_of_train(cmap: Run, domain: Path) -> None:
    for arguments, message in (
        (["--widths", "20"], "multiples of 16"),
        (["--kind", "unet", "--image-size", "10", "--widths", "16,16"], "no multiple of 4"),
        (["--channels", "2"], "neither grey nor RGB"),
    ):
        run = cmap("train", "domain.npz:x_train", "--out", "model", *arguments)
        assert run.returncode == 2
        assert message in run.stderr
