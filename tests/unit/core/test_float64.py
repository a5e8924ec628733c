"""MPS has no float64: none may be made where the model is. Meta tensors stand in for a device that is absent."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cmap_cli.attacks.gradients import cross_entropy
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import preset_for
from cmap_cli.defenses.onestep import OneStepDefense
from cmap_cli.defenses.purified import DefendedClassifier, Gradient
from tests.unit.models.networks.test_nets import gaussian, unet


class NoFloat64OnMeta(TorchDispatchMode):
    """Fails as soon as an operation gives a float64 tensor on the device "meta"."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_flatten(out)[0]:
            if isinstance(value, torch.Tensor) and value.device.type == "meta" and value.dtype == torch.float64:
                raise AssertionError(f"{func} made a float64 tensor of {tuple(value.shape)}")
        return out


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know the device "meta", and is off in float32 anyway."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def on_meta(make: Any) -> Any:
    return make().requires_grad_(False).to("meta")


def test_the_stand_in_notices_float64() -> None:
    with pytest.raises(AssertionError, match="float64"), NoFloat64OnMeta():
        torch.zeros(2, device="meta", dtype=torch.float64)


@pytest.mark.parametrize("make", [gaussian, unet])
@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_purification_makes_no_float64_on_the_device(make: Any, preset: Any) -> None:
    model = on_meta(make)
    x = torch.zeros((2, *model.image_shape), device="meta")
    config = replace(preset_for(preset, model), steps=3)  # each step does the same
    with NoFloat64OnMeta():
        found = Purifier(model, config)(x, [Generator(), Generator()])
    assert found.samples.shape == (2, 10, *model.image_shape)
    assert found.samples.device.type == "meta"


@pytest.mark.parametrize("gradient", ["bpda", "unrolled"])
def test_attacks_through_the_defence_make_no_float64_on_the_device(gradient: Gradient) -> None:
    model = on_meta(gaussian)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).requires_grad_(False).to("meta")
    defended = DefendedClassifier(Purifier(model, preset_for("fast", model)), classifier, gradient=gradient)
    x = torch.zeros((2, 3, 4, 4), device="meta", requires_grad=True)
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    for victim in (defended, OneStepDefense(model, classifier)):
        with NoFloat64OnMeta():
            (slope,) = torch.autograd.grad(cross_entropy(victim(x), labels).sum(), x)
            threat = parse_threat("L2", "0.5")
            assert threat.project(x + slope, x).device.type == "meta"
            assert threat.distance(x + slope, x).dtype == torch.float32
