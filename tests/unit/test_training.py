from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cmap_cli.errors import SettingsMismatchError
from cmap_cli.training.consistency import CHECKPOINT, Progress, TrainingConfig, consistency_loss, train_unet
from cmap_cli.training.gaussian import fit_gaussian
from tests.unit.test_nets import unet

RECIPE = TrainingConfig(images=96, batch_size=8, widths=(16, 16), warmup=2, checkpoint_every=4, lr=1e-3)
CPU = torch.device("cpu")


def data() -> torch.Tensor:
    """Images with one bright half: what a Gaussian cannot express."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (64, 3, 8, 8), generator=generator, dtype=torch.uint8)
    side = torch.rand(64, generator=generator) < 0.5
    images[side, :, :, :4] += 150
    images[~side, :, :, 4:] += 150
    return images


def train(folder: Path, config: TrainingConfig = RECIPE, stop_after: int | None = None) -> dict[str, torch.Tensor]:
    base = fit_gaussian(data(), 20, keep_residual=True)

    class StoppedError(Exception):
        pass

    def on_progress(progress: Progress) -> None:
        if progress.iteration == stop_after:
            raise StoppedError

    try:
        return train_unet(data(), base, config, folder, on_progress, CPU).backbone.state_dict()
    except StoppedError:
        return {}


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = train(whole)
    train(parts, stop_after=7)  # the last checkpoint is of iteration 4
    assert (parts / CHECKPOINT).exists()
    resumed = train(parts)
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(SettingsMismatchError, match="other settings"):
        train(tmp_path, dataclasses.replace(RECIPE, lr=5e-4))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses: list[float] = []
    base = fit_gaussian(data(), 20, keep_residual=True)
    config = dataclasses.replace(RECIPE, images=800, lr=3e-3)
    train_unet(data(), base, config, tmp_path, lambda progress: losses.append(float(progress.loss)), CPU)
    assert sum(losses[-25:]) < 0.8 * sum(losses[:25])


def test_the_loss_is_zero_where_both_levels_are_t_min_and_has_no_gradient_through_the_target() -> None:
    model = unet()
    x, noise = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    low = torch.full((2,), model.sigma_min)
    assert float(consistency_loss(model, x, noise, low, 4.0, 0.03).detach()) == pytest.approx(0, abs=1e-4)
    sigma = torch.tensor([0.5, 20.0])
    lower = sigma * 0.75
    clean = model(x + sigma[:, None, None, None] * noise, sigma) - model(x + lower[:, None, None, None] * noise, lower)
    weight = (sigma**2 + 0.25).sqrt() / (sigma * 0.5)
    expected = (weight * ((clean.flatten(1).square().sum(1) + 0.03**2).sqrt() - 0.03)).mean()
    loss = consistency_loss(model, x, noise, sigma, 4.0, 0.03)
    torch.testing.assert_close(loss, expected)
    parameter = model.backbone.conv_out.weight
    through_one = torch.autograd.grad(loss, parameter, retain_graph=True)[0]
    through_both = torch.autograd.grad(expected, parameter)[0]
    assert not torch.allclose(through_one, through_both)
