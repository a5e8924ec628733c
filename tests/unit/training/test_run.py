"""Training as a function: the settings, the result, and what is reported on the way."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cmap_cli.errors import ImageError, OutOfSpaceError, SettingsMismatchError, UsageError, WeightsError
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.models.zoo import load_model
from cmap_cli.training import checkpoint
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.plan import TrainPlan
from cmap_cli.training.results import TrainProgress
from cmap_cli.training.run import train
from cmap_cli.training.settings import KINDS_OF, TrainSettings

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
    plans: list[TrainPlan] = []
    done = train(
        [photos, tmp_path / "broken.png"],
        tmp_path / "model",
        SMALL,
        on_progress=progress.append,
        on_failure=failures.append,
        on_plan=plans.append,
    )
    assert plans[0].sentence().startswith("unet model of 13 images: 3 iterations of 8 images on cpu")
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


def test_a_finished_unet_is_trained_for_longer_on_the_same_images_only(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "model"
    first = train(photos, out, SMALL)
    progress: list[TrainProgress] = []
    longer = train(photos, out, SMALL, images_seen=48, on_progress=progress.append)
    assert [each.done for each in progress if each.unit == "iterations"] == [4, 5, 6]
    assert json.loads(longer.document.recipe)["images"] == 48
    before, after = (each.model.backbone.state_dict() for each in (first, longer))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    written = (out / "model.safetensors").read_bytes()
    with pytest.raises(SettingsMismatchError, match="has 6 iterations already, more than 3"):
        train(photos, out, SMALL)
    np.save(tmp_path / "others.npy", np.random.RandomState(1).randint(0, 256, (12, 8, 8, 3), np.uint8))
    with pytest.raises(SettingsMismatchError, match="images_sha256 was"):
        train(tmp_path / "others.npy", out, SMALL, images_seen=72)
    assert (out / "model.safetensors").read_bytes() == written
    (out / CHECKPOINT).unlink()
    with pytest.raises(UsageError, match="holds a model already"):
        train(photos, out, SMALL, images_seen=72)


def test_a_unet_begins_with_the_weights_and_the_gaussian_of_another(tmp_path: Path, photos: Path) -> None:
    first = train(photos, tmp_path / "first", SMALL)
    settings = dataclasses.replace(SMALL, init=str(tmp_path / "first"), tuning="trajectory", seed=1)
    second = train(photos, tmp_path / "second", settings)
    assert isinstance(first.model, UNetConsistency) and isinstance(second.model, UNetConsistency)
    torch.testing.assert_close(second.model.base.directions, first.model.base.directions, atol=1e-3, rtol=0)
    drawn = train(photos, tmp_path / "drawn", dataclasses.replace(SMALL, seed=1)).model
    weights = "down.0.conv1.weight"
    near, far = (
        float((model.backbone.state_dict()[weights] - first.model.backbone.state_dict()[weights]).abs().mean())  # type: ignore[union-attr]
        for model in (second.model, drawn)
    )
    assert near < 0.1 * far
    with pytest.raises(UsageError, match="is not a unet with widths"):
        train(photos, tmp_path / "third", dataclasses.replace(settings, init="photo-unet"))


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="this system has no /dev/full")
def test_a_full_disk_is_one_error_and_leaves_no_part_of_a_checkpoint(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_full_device(tensors: object, path: Path, metadata: object) -> None:
        path.symlink_to("/dev/full")
        path.write_bytes(b"x")

    monkeypatch.setattr(checkpoint, "save_file", to_full_device)
    with pytest.raises(OutOfSpaceError, match=r"no space left to write .*checkpoint\.safetensors"):
        train(photos, tmp_path / "model", SMALL)
    assert list((tmp_path / "model").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TrainSettings(lr=float("nan")), "--lr nan is not a positive number"),
        (TrainSettings(lr=0.0), "--lr 0.0 is not a positive number"),
        (TrainSettings(kind="unet", widths=()), "is not a list of multiples of 16"),
        (TrainSettings(channels=2), "neither grey nor RGB"),
        (TrainSettings(kind="unet", image_size=10), "is no multiple of"),
        (TrainSettings(kind="gaussian", preset="bundled"), "--preset has no meaning for --kind gaussian"),
        (TrainSettings(kind="photo", widths=(16,)), "--widths has no meaning for --kind photo"),
        (TrainSettings(iterations=5), "--iterations has no meaning for --kind gaussian"),
        (TrainSettings(init="photo-unet"), "--init has no meaning for --kind gaussian"),
        (TrainSettings(kind="unet", tuning="trajectory"), "--tuning trajectory needs a denoiser"),
        (TrainSettings(kind="photo", tuning="consistency"), "--tuning has no meaning for --kind photo"),
        (TrainSettings(kind="photo", iterations=0), "--iterations 0 is below 1"),
        (TrainSettings(kind="vae"), "kind is 'vae'"),  # type: ignore[arg-type]
        (TrainSettings(precision="fp8"), "precision is 'fp8'"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_fit_nothing_are_refused(
    tmp_path: Path, photos: Path, settings: TrainSettings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train(photos, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()


SMALL_PHOTO = TrainSettings(kind="photo", iterations=1, device="cpu")
OTHER = {
    "preset": "accelerator",
    "image_size": 16,
    "channels": 1,
    "directions": 4,
    "batch_size": 4,
    "widths": (32,),
    "lr": 2e-3,
    "preconditioning": "plain",
    "tuning": "trajectory",
    "seed": 1,
}
"""Another value of every field that changes the result."""
NO_EFFECT = {
    "kind": "each kind has its own fields",
    "images_seen": "a unet may be trained for longer",
    "iterations": "a photo model may be trained for longer",
    "classifier": "tests/unit/training/test_adaptation.py",
    "model": "the same",
    "sigma": "the same",
    "init": "a run that resumes has weights of its own",
    "device": "a run may move to another device",
    "precision": "a run may move to hardware without it",
    "compiled": "the arithmetic is the same",
    "overwrite": "asks for a new run",
    "weights_dir": "where files are",
}


def test_every_setting_changes_the_result_or_not() -> None:
    assert {field.name for field in dataclasses.fields(TrainSettings)} == {*OTHER, *NO_EFFECT}


@pytest.mark.parametrize("name", [name for name in OTHER if "unet" in KINDS_OF.get(name, ("unet",))])
def test_a_unet_is_not_resumed_with_another_setting(tmp_path: Path, photos: Path, name: str) -> None:
    out = tmp_path / "model"
    train(photos, out, SMALL)
    (out / "model.safetensors").unlink()  # as if it had been interrupted after the last checkpoint
    settings = dataclasses.replace(SMALL, **{name: OTHER[name]})
    if name == "tuning":
        train(photos, tmp_path / "teacher", SMALL)
        settings = dataclasses.replace(settings, init=str(tmp_path / "teacher"))
    if name == "preset":
        settings = dataclasses.replace(settings, images_seen=SMALL.images_seen)
    with pytest.raises(SettingsMismatchError, match="was made with other settings"):
        train(photos, out, settings)
    assert train(photos, out, SMALL).document.images == 12


@pytest.mark.usefixtures("narrow_photo_recipe")
def test_a_photo_model_is_trained_from_python_and_for_longer_only(tmp_path: Path) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (3, 80, 72, 3), np.uint8)
    np.save(tmp_path / "noise.npy", noise)
    progress: list[TrainProgress] = []
    out = tmp_path / "model"
    done = train(tmp_path / "noise.npy", out, SMALL_PHOTO, on_progress=progress.append)
    assert [(each.unit, each.done, each.total) for each in progress] == [
        ("images read", 1, 3),
        ("images read", 2, 3),
        ("images read", 3, 3),
        ("iterations", 1, 1),
    ]
    assert (done.document.kind, done.document.images, done.path) == ("photo", 3, out / "model.safetensors")
    assert "- crops seen: 16\n" in (out / "README.md").read_text()
    for name in ("seed", "lr"):
        with pytest.raises(SettingsMismatchError, match="was made with other settings"):
            train(tmp_path / "noise.npy", out, SMALL_PHOTO, **{name: OTHER[name]})
    longer = train(tmp_path / "noise.npy", out, SMALL_PHOTO, iterations=2)
    assert json.loads(longer.document.recipe)["iterations"] == 2
    with pytest.raises(SettingsMismatchError, match="has 2 iterations already, more than 1"):
        train(tmp_path / "noise.npy", out, SMALL_PHOTO)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def not_safetensors(path: Path) -> None:
    path.write_bytes(b"\x80\x04pickle" * 100)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rewritten(change: Callable[[dict[str, torch.Tensor]], None], **metadata: str) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        with safe_open(path, "pt") as file:
            before = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, before | metadata)

    return rewrite


def foreign_weight(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.foreign"] = torch.zeros(3)


def foreign_state(tensors: dict[str, torch.Tensor]) -> None:
    tensors["adam.999.exp_avg"] = torch.zeros(3)


def state_without_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors["adam.first.exp_avg"] = torch.zeros(3)


def weight_of_another_shape(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if name.startswith("short."))
    tensors[name] = torch.zeros(5, 5)


def state_of_another_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["adam.0.exp_avg"] = torch.zeros(5, 5)


def no_state(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("adam.")]:
        del tensors[name]


def nothing(tensors: dict[str, torch.Tensor]) -> None:
    pass


def foreign_file(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_in_half, "cannot be read as safetensors"),
        (not_safetensors, "cannot be read as safetensors"),
        (empty, "cannot be read as safetensors"),
        (foreign_file, "is not a checkpoint of cmap train"),
        (rewritten(foreign_weight), "Unexpected key"),
        (rewritten(foreign_state), "is damaged"),
        (rewritten(state_without_number), "is damaged"),
        (rewritten(weight_of_another_shape), "size mismatch"),
        (rewritten(state_of_another_shape), r"0\.exp_avg has shape \(5, 5\)"),
        (rewritten(no_state), "the state of 0 tensors"),
        (rewritten(nothing, iteration="many"), "is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_one_error_with_a_hint(
    tmp_path: Path, photos: Path, damage: Callable[[Path], None], message: str
) -> None:
    out = tmp_path / "model"
    train(photos, out, SMALL)
    (out / "model.safetensors").unlink()
    damage(out / CHECKPOINT)
    with pytest.raises(WeightsError, match=message) as raised:
        train(photos, out, SMALL)
    assert "\n" not in raised.value.message
    assert "--overwrite" in raised.value.hint
    assert not (out / "model.safetensors").exists()
    assert train(photos, out, SMALL, overwrite=True).path.exists()
