"""What needs CUDA or MPS: the same results as on the CPU, within the precision. pytest -m accelerator"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import preset_for
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.defenses.purified import DefendedClassifier
from cmap_cli.device import choose_dtype
from cmap_cli.models.zoo import load_model
from cmap_cli.training.gaussian import fit_gaussian
from cmap_cli.training.loop import train_unet
from cmap_cli.training.recipe import TrainingConfig
from tests.conftest import Run
from tests.toys import QuadrantClassifier

PRESENT = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
pytestmark = pytest.mark.accelerator


@pytest.fixture(params=["cuda", "mps"])
def device(request: pytest.FixtureRequest) -> torch.device:
    if not PRESENT[request.param]():
        pytest.skip(f"there is no {request.param} here")
    return torch.device(request.param)


def images(count: int) -> torch.Tensor:
    return load_dataset("cifar10", n=count).batch(0, count).x


@pytest.mark.parametrize("name", ["cifar10-gaussian", "cifar10-unet"])
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_purified_images_are_those_of_the_cpu(device: torch.device, name: str, precision: str) -> None:
    x, found = images(4), []
    for place in (torch.device("cpu"), device):
        dtype = choose_dtype(precision, device) if place == device else torch.float32  # type: ignore[arg-type]
        model = load_model(name, place)
        purifier = Purifier(model, preset_for("balanced", model), dtype=dtype)
        found.append(purifier(x.to(place), image_generators(x, 0)).samples.mean(1).cpu())
    error = float((found[0] - found[1]).abs().mean())
    assert error < (1e-3 if precision == "fp32" else 1e-2)


def test_the_exact_gradient_is_that_of_the_cpu(device: torch.device) -> None:
    x, gradients = images(2), []
    for place in (torch.device("cpu"), device):
        model = load_model("cifar10-gaussian", place)
        purifier = Purifier(model, dataclasses.replace(preset_for("fast", model), num_latents=2))
        defended = DefendedClassifier(purifier, QuadrantClassifier().to(place), gradient="unrolled", seed=1)
        asked = x.to(place).requires_grad_()
        (gradient,) = torch.autograd.grad(defended(asked)[:, 0].sum(), asked)
        gradients.append(gradient.flatten().cpu())
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > 0.99


@pytest.mark.parametrize("compiled", [False, True])
def test_training_in_half_precision_follows_that_of_the_cpu(
    device: torch.device, tmp_path: Path, *, compiled: bool
) -> None:
    if compiled and device.type == "mps":
        pytest.skip("torch.compile is offered on CUDA")
    data = (images(64) * 255).round().to(torch.uint8)
    recipe = TrainingConfig(images=640, batch_size=32, widths=(16, 16), warmup=2, denoising=0.5)
    model, _, _ = train_unet(
        data, fit_gaussian(data, 40), recipe, tmp_path, lambda _: None, device, torch.bfloat16, compiled=compiled
    )
    assert all(bool(parameter.isfinite().all()) for parameter in model.backbone.parameters())


def test_purify_takes_the_accelerator_by_itself(device: torch.device, cmap: Run, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), (90, 120, 30)).save(tmp_path / "a.png")
    run = cmap("purify", "a.png", "--out", "clean", "--preset", "fast", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["written"] == 1
    dry = cmap("purify", "a.png", "--out", "other", "--dry-run")
    assert f"on {device.type}" in dry.stderr
