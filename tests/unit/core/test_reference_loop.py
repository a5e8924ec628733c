"""The loop that ours is timed against computes the same thing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from benchmarks.reference_loop import reference_loop
from torch import Tensor, nn

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PRESETS, PurifyConfig
from cmap_cli.core.types import ConsistencyModel
from cmap_cli.models.networks.gaussian import GaussianConsistency


class Bent(nn.Module):
    """A model with parameters and a bend, so that gradients depend on the place."""

    sigma_min = 0.002
    sigma_max = 80.0
    image_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv.reset_parameters()

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 1.5 * torch.tanh(self.conv(x / sigma[:, None, None, None]))


def gaussian() -> GaussianConsistency:
    basis = torch.linalg.qr(torch.randn(192, 60, generator=torch.Generator().manual_seed(0)))[0].T
    return GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.logspace(0.3, -1.7, 60))


def images() -> Tensor:
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", [Bent(), gaussian()], ids=["bent", "gaussian"])
@pytest.mark.parametrize("preset", ["paper", "paper-imagenet100"])
def test_latents_are_those_of_the_papers_preset(model: ConsistencyModel, preset: str) -> None:
    assert isinstance(model, nn.Module)
    model.requires_grad_(False)
    config = dataclasses.replace(PRESETS[preset], steps=8)  # type: ignore[index]
    purifier, x = Purifier(model, config), images()
    start = purifier.draw(x, image_generators(x, 0)).latents
    ours = purifier(x, image_generators(x, 0)).latents
    theirs = reference_loop(model, x, start, config)
    assert (ours - start).abs().mean() > 5
    away = (ours - theirs).abs()  # Adam amplifies the rounding of gradients that are nearly 0
    assert away.median() < 1e-4
    assert (away > 1e-2).float().mean() < 0.005


def test_another_objective_would_be_noticed() -> None:
    model, x = Bent().requires_grad_(False), images()
    config = PurifyConfig(steps=8)
    start = Purifier(model, config).draw(x, image_generators(x, 0)).latents
    ours = Purifier(model, dataclasses.replace(config, perceptual_weight=1.0))(x, image_generators(x, 0)).latents
    away = (ours - reference_loop(model, x, start, config)).abs()
    assert (away > 1e-2).float().mean() > 0.05


def test_weights_get_gradients_and_the_classifier_sees_three_times_k_images() -> None:
    seen: list[int] = []

    def classifier(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        assert batch.min() >= 0
        assert batch.max() <= 1
        return batch.flatten(1)[:, :4]

    model, x = Bent(), images()[:1]
    config = PurifyConfig(num_latents=4, steps=2)
    reference_loop(model, x, torch.randn(1, 4, 3, 8, 8) * 80, config, classifier)
    assert sum(seen) == 3 * 4 * 2
    assert model.conv.weight.grad is not None
