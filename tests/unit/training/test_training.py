from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cmap_cli.errors import SettingsMismatchError, UsageError
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.models.store import save_model
from cmap_cli.models.zoo import load_model
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.gaussian import fit_gaussian
from cmap_cli.training.loop import TrainingStep, train_unet, training_batch
from cmap_cli.training.losses import ascend, consistency_loss, denoising_loss, trajectory_loss
from cmap_cli.training.recipe import RECIPES, TrainingConfig
from tests.unit.models.networks.test_nets import unet

RECIPE = TrainingConfig(images=96, batch_size=8, widths=(16, 16), warmup=2, checkpoint_every=4, lr=1e-3, uniform=0.0)
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

    def on_progress(progress: TrainingStep) -> None:
        if progress.iteration == stop_after:
            raise StoppedError

    try:
        return train_unet(data(), base, config, folder, on_progress, CPU)[0].backbone.state_dict()
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
    config = dataclasses.replace(RECIPE, images=400, lr=5e-3, denoising=0.0, tuning_denoising=0.0)
    train_unet(data(), base, config, tmp_path, lambda progress: losses.append(float(progress.loss)), CPU)
    assert sum(losses[-12:]) < 0.7 * sum(losses[:12])


def test_pre_training_denoises_better_than_the_closed_form(tmp_path: Path) -> None:
    base = fit_gaussian(data(), 20, keep_residual=True)
    config = dataclasses.replace(RECIPE, images=480, lr=5e-3, denoising=1.0, denoising_mean=1.0, denoising_std=0.2)
    model, _, _ = train_unet(data(), base, config, tmp_path, lambda _: None, CPU)
    x = data().float() / 127.5 - 1
    sigma = torch.full((64,), 3.0)
    noisy = x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    learned, linear = model.denoise(noisy, sigma), base.estimates(noisy, sigma)[1]
    assert float((learned - x).square().mean()) < 0.7 * float((linear - x).square().mean())


def test_the_loss_is_zero_where_both_levels_are_t_min_and_has_no_gradient_through_the_target() -> None:
    model = unet()
    x, noise = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    low = torch.full((2,), model.sigma_min)
    assert float(consistency_loss(model, x, noise, low, 4.0, 0.03).detach()) == pytest.approx(0, abs=1e-4)
    sigma = torch.tensor([0.5, 20.0])
    lower = sigma * 0.75
    clean = model(x + sigma[:, None, None, None] * noise, sigma) - model(x + lower[:, None, None, None] * noise, lower)
    weight = (sigma**2 + 0.25).sqrt() / (sigma * 0.5)
    expected = (weight * ((clean.flatten(1).square().sum(1) + 0.03**2).sqrt() - 0.03)).mean() / 192**0.5
    loss = consistency_loss(model, x, noise, sigma, 4.0, 0.03)
    torch.testing.assert_close(loss, expected)
    parameter = model.backbone.conv_out.weight
    through_one = torch.autograd.grad(loss, parameter, retain_graph=True)[0]
    through_both = torch.autograd.grad(expected, parameter)[0]
    assert not torch.allclose(through_one, through_both)


def test_the_denoising_loss_weighs_the_posterior_mean_of_an_untrained_network() -> None:
    model = unet()
    torch.nn.init.zeros_(model.backbone.conv_out.weight)
    torch.nn.init.zeros_(model.backbone.conv_out.bias)
    x, noise, sigma = torch.rand(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([0.5, 2.0])
    wiener = model.base.estimates(x + sigma[:, None, None, None] * noise, sigma)[1]
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    expected = (weight * (wiener - x).square().mean((1, 2, 3))).mean()
    torch.testing.assert_close(denoising_loss(model, x, noise, sigma), expected)


def test_the_denoiser_is_trained_first_and_consistency_after_it(tmp_path: Path) -> None:
    config = dataclasses.replace(RECIPE, denoising=0.5)
    assert [config.denoises_at(iteration) for iteration in (0, 5, 6, 11)] == [True, True, False, False]
    assert config.ratio_at(6) == config.ratio_start
    assert config.ratio_at(12) == pytest.approx(config.ratio_end)
    large = dataclasses.replace(config, batch_size=4000, images=4000 * config.iterations, tuning_denoising=0.25)
    assert [large.denoised_at(iteration) for iteration in (0, 11)] == [4000, 1000]
    first, last = (training_batch(data(), large, when)[2].log() for when in (0, 11))
    assert float(first.mean()) == pytest.approx(config.denoising_mean, abs=0.1)
    assert float(last[:1000].mean()) == pytest.approx(config.denoising_mean, abs=0.1)
    assert float(last[1000:].median()) == pytest.approx(config.consistency_mean, abs=0.1)
    assert float(last[1000:].min()) == pytest.approx(0, abs=1e-6)
    only_denoised = dataclasses.replace(config, denoising=1.0)
    for folder in ("both", "one"):
        (tmp_path / folder).mkdir()
    both, one = train(tmp_path / "both", config), train(tmp_path / "one", only_denoised)
    assert not torch.equal(both["conv_out.weight"], one["conv_out.weight"])


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_recipes_end_with_a_learning_rate_of_nothing(recipe: TrainingConfig) -> None:
    assert recipe.lr_at(recipe.warmup) > 0.9 * recipe.lr
    assert recipe.lr_at(recipe.iterations) == pytest.approx(0, abs=1e-9)
    assert 0 < recipe.denoising_iterations < recipe.iterations


def test_the_plain_preconditioning_trains_and_comes_back_from_its_file(tmp_path: Path) -> None:
    base = fit_gaussian(data(), 20, keep_residual=True)
    config = dataclasses.replace(RECIPE, preconditioning="plain", blocks=2)
    model, _, seconds = train_unet(data(), base, config, tmp_path, lambda _: None, CPU)
    assert seconds > 0
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(str(tmp_path / "model.safetensors"))
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.002, 5.0])
    torch.testing.assert_close(again(x, sigma), model(x, sigma), atol=0.02, rtol=0.02)
    torch.testing.assert_close(again(x, sigma)[0], x[0], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_compiled_training_computes_the_same(tmp_path: Path) -> None:
    base = fit_gaussian(data(), 20, keep_residual=True)

    def losses(*, compiled: bool) -> list[float]:
        folder, found = tmp_path / str(compiled), []
        folder.mkdir()
        train_unet(data(), base, RECIPE, folder, lambda step: found.append(float(step.loss)), CPU, compiled=compiled)
        return found

    assert losses(compiled=True) == pytest.approx(losses(compiled=False), rel=1e-3)


def test_the_ode_upwards_ends_where_the_closed_form_of_a_gaussian_says() -> None:
    base = unet().base.double()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = torch.logspace(-1, 1.9, 120, dtype=torch.float64)

    class Linear:
        sigma_min = base.sigma_min

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return base(x, sigma)

        def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return base.estimates(x, sigma)[1]

    class Blurred(Linear):
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return self.denoise(x, sigma)

    points = ascend(Linear(), x, levels[:, None].expand(-1, 2))
    for level, point in zip(levels[1:], points, strict=True):  # f maps each point to the same image
        expected = base(x, levels[:1].expand(2))
        torch.testing.assert_close(base(point, level.expand(2)), expected, atol=2e-3, rtol=0)
    wide = 2 * base.directions[:2].reshape(2, 3, 8, 8)  # along directions whose deviation is far above the first level
    still = torch.zeros_like(wide)
    exact = float(trajectory_loss(Linear(), Linear(), wide, still, levels, 1.0, 0.0))
    assert exact < 0.1 * float(trajectory_loss(Blurred(), Linear(), wide, still, levels, 1.0, 0.0))


def test_tuning_on_trajectories_changes_the_weights_and_resumes(tmp_path: Path) -> None:
    base = fit_gaussian(data(), 20, keep_residual=True)
    config = dataclasses.replace(RECIPE, tuning="trajectory", trajectory_steps=4, denoising=0.25)
    with pytest.raises(UsageError, match="denoiser to begin with"):
        train_unet(data(), base, config, tmp_path, lambda _: None, CPU)
    torch.manual_seed(0)
    initial = UNetConsistency(base, config.widths, config.blocks)
    before = {name: value.clone() for name, value in initial.backbone.state_dict().items()}

    def run(folder: str, stop_after: int | None = None) -> dict[str, torch.Tensor]:
        def on_progress(progress: TrainingStep) -> None:
            if progress.iteration == stop_after:
                raise KeyboardInterrupt

        (tmp_path / folder).mkdir(exist_ok=True)
        model, _, _ = train_unet(data(), base, config, tmp_path / folder, on_progress, CPU, initial=initial)
        return model.backbone.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", stop_after=6)
    for name, value in run("parts").items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(whole["conv_out.weight"], before["conv_out.weight"])
    for name, value in initial.backbone.state_dict().items():
        assert torch.equal(value, before[name])  # the teacher stays what it was
