"""Training as a function: the settings, the result, and what is reported on the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cmap_cli.errors import ImageError, OutOfSpaceError, UsageError
from cmap_cli.models.zoo import load_model
from cmap_cli.training import checkpoint
from cmap_cli.training.plan import TrainSettings
from cmap_cli.training.run import TrainProgress, train

SMALL = TrainSettings(kind="unet", image_size=8, directions=8, images_seen=24, batch_size=8, widths=(16,), device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An array of twelve images, 8×8."""
    path = tmp_path / "photos.npy"
    np.save(path, np.random.RandomState(0).randint(0, 256, (12, 8, 8, 3), np.uint8))
    return path


def test_a_unet_is_trained_and_reported(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    progress: list[TrainProgress] = []
    failures: list[ImageError] = []
    said: list[str] = []
    done = train(
        SMALL,
        [photos, tmp_path / "broken.png"],
        tmp_path / "model",
        on_progress=progress.append,
        on_failure=failures.append,
        on_message=said.append,
    )
    assert said[0].startswith("unet model of 13 images: 3 iterations of 8 images on cpu")
    assert [each.done for each in progress if each.unit == "images read"] == list(range(1, 13))
    assert [(each.done, each.total) for each in progress if each.unit == "iterations"] == [(1, 3), (2, 3), (3, 3)]
    assert [str(each) for each in failures] == [str(each) for each in done.failures]
    assert "broken.png is empty" in str(failures[0])
    assert (done.document.images, done.document.image_shape) == (12, (3, 8, 8))
    assert load_model(str(tmp_path / "model")).image_shape == (3, 8, 8)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "README.md",
        "checkpoint.safetensors",
        "model.safetensors",
        "samples.png",
        "training.jsonl",
    ]
    with pytest.raises(UsageError, match="holds a model already"):
        train(SMALL, [photos], tmp_path / "model")


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="this system has no /dev/full")
def test_a_full_disk_is_one_error_and_leaves_no_part_of_a_checkpoint(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_full_device(tensors: object, path: Path, metadata: object) -> None:
        path.symlink_to("/dev/full")
        path.write_bytes(b"x")

    monkeypatch.setattr(checkpoint, "save_file", to_full_device)
    with pytest.raises(OutOfSpaceError, match=r"no space left to write .*checkpoint\.safetensors"):
        train(SMALL, [photos], tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TrainSettings(lr=float("nan")), "--lr nan is not a positive number"),
        (TrainSettings(lr=0.0), "--lr 0.0 is not a positive number"),
        (TrainSettings(kind="unet", widths=()), "is not a list of multiples of 16"),
        (TrainSettings(channels=2), "neither grey nor RGB"),
        (TrainSettings(kind="unet", image_size=10), "is no multiple of"),
        (TrainSettings(kind="gaussian", preset="bundled"), "a recipe of a unet"),
    ],
)
def test_settings_that_fit_nothing_are_refused(
    tmp_path: Path, photos: Path, settings: TrainSettings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(settings, [photos], tmp_path / "model")
    assert not (tmp_path / "model").exists()
