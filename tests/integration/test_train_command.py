"""``cmap train``, and ``cmap purify`` with what it made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from cmap_cli.models.weights.cache import CONVERTER_VERSION, cached_path, record_in_lock, sha256
from cmap_cli.models.weights.manifest import find_artefact
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
def test_a_model_is_made_and_purifies(invoke: Run, domain: Path, tmp_path: Path, kind: str) -> None:
    options = UNET if kind == "unet" else ()
    run = invoke("train", "domain.npz:x_train", "--out", "model", "--image-size", "16", "--directions", "8", *options)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "model/model.safetensors"
    with Image.open(tmp_path / "model/samples.png") as sheet:
        assert sheet.size[0] > 800
    card = (tmp_path / "model/README.md").read_text()
    assert "cmap train domain.npz:x_train --out model" in card
    assert "images: 40" in card
    purified = invoke("purify", "one.png", "--out", "clean", "--model", "model", "--preset", "fast", "--json")
    assert purified.returncode == 0, purified.stderr
    assert json.loads(purified.stdout)["written"] == 1
    other = invoke("train", "domain.npz:x_train", "--out", "model", "--image-size", "16", *options)
    assert other.returncode == 2
    assert {"gaussian": "holds a model already", "unet": "directions was 8 and is now 39"}[kind] in other.stderr


def test_grey_models_and_unreadable_training_images(invoke: Run, domain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(6):
        Image.new("RGB", (20 + index, 16), (index * 40, 10, 10)).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"")
    run = invoke("train", "photos", "--out", "grey", "--image-size", "8", "--channels", "1", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert (document["images"], document["image shape"]) == (6, [1, 8, 8])
    assert "broken.png is empty" in run.stderr
    purified = invoke(
        "purify", "photos/3.png", "--out", "clean", "--model", "grey", "--fit", "crop", "--preset", "fast"
    )
    assert purified.returncode == 0, purified.stderr
    with Image.open(tmp_path / "clean/3.png") as result:
        assert result.size == (8, 8)


def test_usage_errors_of_train(invoke: Run, domain: Path) -> None:
    for arguments, message in (
        (["--widths", "20"], "multiples of 16"),
        (["--widths", "a"], "multiples of 16"),
        (["--lr", "nan"], "--lr nan is not a positive number"),
        (["--kind", "unet", "--image-size", "10", "--widths", "16,16"], "no multiple of 4"),
        (["--channels", "2"], "neither grey nor RGB"),
        (["--preset", "bundled", "--kind", "gaussian"], "--preset has no meaning for --kind gaussian"),
    ):
        run = invoke("train", "domain.npz:x_train", "--out", "model", *arguments)
        assert run.returncode == 2
        assert message in run.stderr
    nothing = invoke("train", "--out", "model")
    assert (nothing.returncode, "no training images are given" in nothing.stderr) == (2, True)


def test_a_dry_run_prints_its_document_and_writes_nothing(invoke: Run, domain: Path, tmp_path: Path) -> None:
    run = invoke("train", "domain.npz:x_train", "--out", "model", "--image-size", "16", *UNET, "--dry-run", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    seconds = document.pop("seconds")
    assert 0 < seconds["low"] < seconds["high"]
    assert document == {
        "schema": "cmap.train/1",
        "dry_run": True,
        "kind": "unet",
        "images": 40,
        "image_shape": [3, 16, 16],
        "iterations": 6,
        "batch_size": 4,
        "device": "cpu",
        "out": "model",
    }
    plain = invoke("train", "domain.npz:x_train", "--out", "model", "--dry-run")
    assert (plain.returncode, plain.stdout) == (0, "")
    assert "gaussian model of 40 images: a covariance on cpu" in plain.stderr
    assert "if it begins anew" in plain.stderr
    assert "warning: 40 images are too few" in plain.stderr
    assert not (tmp_path / "model").exists()


def put_cifar10(weights_dir: Path) -> None:
    """A cache with 50 training images of CIFAR-10's format."""
    weights_dir.mkdir()
    artefact = find_artefact("cifar10", "dataset")
    path = cached_path(artefact, weights_dir)
    x = np.random.RandomState(0).randint(0, 256, (50, 32, 32, 3), np.uint8)
    source = artefact.sources[0]
    metadata = {"source": source.url, "source_sha256": "0" * 64, "converter": str(CONVERTER_VERSION)}
    labels = np.zeros(50, np.uint8)
    save_file({"x_train": x, "y_train": labels, "x_test": x, "y_test": labels}, path, metadata)
    record_in_lock(weights_dir, artefact, source, "0" * 64, sha256(path))


def test_a_preset_takes_the_training_split_of_cifar10_from_the_cache(invoke: Run, tmp_path: Path) -> None:
    absent = invoke("train", "--preset", "bundled", "--out", "model", "--weights-dir", "cache")
    assert absent.returncode == 2
    assert "cmap download-weights cifar10" in absent.stderr
    put_cifar10(tmp_path / "cache")
    small = ("--images-seen", "8", "--batch-size", "4", "--widths", "16,16", "--preconditioning", "plain")
    run = invoke("train", "--preset", "bundled", "--out", "model", "--weights-dir", "cache", "--json", *small)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    recipe = json.loads(document["recipe"])
    assert (document["kind"], document["images"]) == ("unet", 50)
    assert (recipe["preconditioning"], recipe["widths"], recipe["images"]) == ("plain", [16, 16], 8)


@pytest.mark.usefixtures("narrow_photo_recipe")
def test_a_photograph_model_is_made_of_pictures_of_different_sizes(invoke: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.effect_noise((80 + 8 * index, 72), 40).convert("RGB").save(folder / f"{index}.png")
    command = ("train", "photos", "--kind", "photo", "--preset", "bundled", "--out", "model", "--json")
    first = invoke(*command, "--iterations", "1")
    assert first.returncode == 0, first.stderr
    document = json.loads(first.stdout)
    assert (document["kind"], document["images"], json.loads(document["recipe"])["iterations"]) == ("photo", 3, 1)
    assert "crops seen: 16" in (tmp_path / "model/README.md").read_text()
    longer = invoke(*command, "--iterations", "2")
    assert json.loads(json.loads(longer.stdout)["recipe"])["iterations"] == 2
    (tmp_path / "model/checkpoint.safetensors").unlink()
    finished = invoke(*command)
    assert (finished.returncode, "holds a model already" in finished.stderr) == (2, True)
    refused = invoke(*command, "--widths", "16,16")
    assert (refused.returncode, "--widths has no meaning for --kind photo" in refused.stderr) == (2, True)
    other = invoke("train", "photos", "--out", "other", "--iterations", "3")
    assert (other.returncode, "--iterations has no meaning for --kind gaussian" in other.stderr) == (2, True)
