"""``cmap purify`` with models and classifiers that do not come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cmap_cli.models.formats.adm_configs import unet_config
from cmap_cli.models.networks.adm import build_adm
from tests.conftest import Run
from tests.openai_weights import TINY_STATE, deterministic_parameters, layout, write_checkpoint


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def conditional(tmp_path: Path) -> Path:
    """A small diffusers consistency model of two classes and 16×16 images, as a pipeline's folder."""
    pytest.importorskip("diffusers")
    config = unet_config(
        image_size=16,
        widths=(32, 32),
        layers=1,
        attention=(False, True),
        num_classes=2,
        scale_shift=True,
        head_channels=16,
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        key.removeprefix("unet."): 0.1 * torch.randn(value.shape, generator=generator)
        for key, value in build_adm({"unet": config}).state_dict().items()
    }
    unet = tmp_path / "port" / "unet"
    unet.mkdir(parents=True)
    (unet / "config.json").write_text(json.dumps(config))
    save_file(tensors, unet / "diffusion_pytorch_model.safetensors")
    return tmp_path / "port"


QUICK = ("--steps", "2", "--num-latents", "2", "--quiet")


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_class_conditional_models_get_the_predictions_of_the_classifier(
    invoke: Run, conditional: Path, picture: Path, tmp_path: Path
) -> None:
    command = ("purify", picture, "--model", conditional, *QUICK)
    run = invoke(*command, "--out", "a")
    assert run.returncode == 2
    assert "needs a class for each image, one of 2" in run.stderr
    run = invoke(*command, "--out", "a", "--classifier", "pyautoattack-resnet18")
    assert run.returncode == 2
    assert "is conditioned on 2 classes, pyautoattack-resnet18 has 10" in run.stderr
    run = invoke(
        *command,
        "--out",
        "predicted",
        "--classifier",
        "tests.toys:brightness_classifier",
        PYTHONPATH=str(Path(__file__).parents[2]),
    )
    assert run.returncode == 0, run.stderr
    (record,) = records(tmp_path / "predicted")
    assert str(record["label"]) == record["before"]
    other = 1 - int(str(record["label"]))
    for label, folder in ((record["label"], "same"), (other, "other")):
        assert invoke(*command, "--out", folder, "--class", str(label)).returncode == 0
    images = {name: np.asarray(Image.open(tmp_path / name / "a.png")) for name in ("predicted", "same", "other")}
    assert (images["predicted"] == images["same"]).all()
    assert (images["same"] != images["other"]).any()
    run = invoke(*command, "--out", "b", "--class", "7")
    assert (run.returncode, "--class 7 is no number below 2" in run.stderr) == (2, True)


def test_class_is_refused_by_models_without_classes(invoke: Run, small_model: Path, picture: Path) -> None:
    run = invoke("purify", picture, "--out", "o", "--model", small_model, "--class", "1")
    assert (run.returncode, "is for class-conditional models" in run.stderr) == (2, True)


ENTRY = """
[openai]
kind = "consistency-model"
architecture = "openai-ncsnpp"
licence = "Apache-2.0"
page = "https://example.org"
shape = [3, 32, 32]
range = [-1, 1]
sigma = [0.002, 80.0]
classes = 0
[[openai.sources]]
url = "https://example.org/checkpoint_80"
format = "flax-msgpack"
size = [1_000_000, 2_000_000_000]
sha256 = "unpublished"
"""


def purify_with_openai(invoke: Run, checkpoint: Path, picture: Path, tmp_path: Path) -> dict[str, object]:
    """From a checkpoint that somebody downloaded to a purified image, as a user would."""
    (tmp_path / "weights.toml").write_text(ENTRY)
    environment = {"CMAP_MANIFEST": "weights.toml", "CMAP_WEIGHTS_DIR": str(tmp_path / "cache")}
    run = invoke("download-weights", "openai", "--from-dir", checkpoint.parent, **environment)
    assert run.returncode == 0, run.stderr
    run = invoke("purify", picture, "--out", "o", "--model", "openai", *QUICK, **environment)
    assert run.returncode == 0, run.stderr
    (record,) = records(tmp_path / "o")
    return record


def test_a_checkpoint_of_openai_purifies(invoke: Run, picture: Path, tmp_path: Path) -> None:
    record = purify_with_openai(invoke, TINY_STATE, picture, tmp_path)
    assert record["steps"] == 2
    with Image.open(tmp_path / "o" / "a.png") as purified:
        assert purified.size == (32, 32)


@pytest.mark.slow
def test_a_full_size_checkpoint_of_openai_purifies(invoke: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    checkpoint = tmp_path / "given" / "checkpoint_80"
    write_checkpoint(checkpoint, deterministic_parameters(layout("full")))
    record = purify_with_openai(invoke, checkpoint, picture, tmp_path)
    assert record["steps"] == 2
