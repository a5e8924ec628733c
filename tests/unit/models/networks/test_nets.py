from __future__ import annotations

import itertools

import pytest
import torch

from cmap_cli.errors import WeightsError
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.models.store import read_model, save_model
from cmap_cli.models.zoo import load_model
from cmap_cli.training.gaussian import components_of_covariance, fit_gaussian


def gaussian(directions: int = 20, residual: float = 0.05) -> GaussianConsistency:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64))[0]
    mean = torch.rand(3, 4, 4, generator=generator) - 0.5
    return GaussianConsistency(mean, basis[:directions], torch.linspace(2, 0.1, directions), residual)


def unet(seed: int = 0) -> UNetConsistency:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(192, 40, generator=generator))[0].T
    model = UNetConsistency(
        GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.linspace(2, 0.1, 40), 0.05), (16, 32)
    )
    for parameter in model.backbone.parameters():  # zero-initialised layers would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_gaussian_solves_the_probability_flow_ode() -> None:
    """dx/dt = (x − D(x, t)) / t, integrated down from t by Heun's method, ends where f(x, t) says."""
    model = gaussian().double()
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 5
    levels = torch.logspace(torch.tensor(5.0).log10(), torch.tensor(0.002).log10(), 4000, dtype=torch.float64)

    def slope(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (x - model.estimates(x, t.expand(4))[1]) / t

    state = x
    for t, lower in itertools.pairwise(levels):
        first = slope(state, t)
        second = slope(state + (lower - t) * first, lower)
        state = state + (lower - t) * (first + second) / 2
    torch.testing.assert_close(model(x, levels[:1].expand(4)), state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [gaussian, unet])
def test_boundary_condition(make: type) -> None:
    model = make()
    x = torch.randn(5, *model.image_shape)
    torch.testing.assert_close(model(x, torch.full((5,), model.sigma_min)), x, rtol=0, atol=2e-6)


def test_gaussian_without_residual_generates_inside_its_span() -> None:
    model = gaussian(residual=0.0)
    images = model(torch.randn(30, 3, 4, 4) * 80, torch.full((30,), 80.0)) - model.mean
    outside = images.flatten(1) - images.flatten(1) @ model.directions.T @ model.directions
    assert outside.norm() < 5e-3 * images.norm()  # t_min / t_max of the latents' part outside is left


def test_fit_recovers_mean_and_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(5000, 1, generator=generator) * 20
    pattern = torch.sign(torch.randn(1, 48, generator=generator))
    pixels = (128 + strong * pattern + torch.randn(5000, 48, generator=generator) * 4).round().clamp(0, 255)
    data = pixels.to(torch.uint8).reshape(5000, 3, 4, 4)
    model = fit_gaussian(data, 1, keep_residual=True)
    torch.testing.assert_close(model.mean.flatten(), pixels.mean(0) / 127.5 - 1, rtol=0, atol=1e-4)
    assert abs(float(model.directions[0] @ pattern[0])) / 48**0.5 > 0.999
    variances = torch.linalg.eigvalsh(torch.cov((pixels / 127.5 - 1).T, correction=0))
    torch.testing.assert_close(model.stds[0] ** 2, variances[-1], rtol=1e-3, atol=0)
    assert model.residual**2 == pytest.approx(float(variances[:-1].mean()), rel=1e-2)


@pytest.mark.parametrize("keep_residual", [False, True])
def test_few_images_have_the_components_of_their_covariance(
    keep_residual: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch.randint(0, 256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    model = fit_gaussian(data, 19, keep_residual=keep_residual)
    monkeypatch.setattr("cmap_cli.training.gaussian.components_of_images", components_of_covariance)
    expected = fit_gaussian(data, 19, keep_residual=keep_residual)
    torch.testing.assert_close(model.mean, expected.mean)
    torch.testing.assert_close(model.stds, expected.stds, rtol=1e-3, atol=1e-5)
    assert model.residual == pytest.approx(expected.residual, abs=3e-4)
    overlap = (model.directions.float() @ expected.directions.float().T).abs()
    torch.testing.assert_close(overlap, torch.eye(19), rtol=0, atol=2e-2)


def test_unet_images_of_a_batch_do_not_interact_and_gradients_reach_the_input() -> None:
    model = unet().requires_grad_(False)
    x = (torch.randn(3, 3, 8, 8) * 80).requires_grad_()
    out = model(x, torch.full((3,), 80.0))
    (gradient,) = torch.autograd.grad(out[1].sum(), x)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


@pytest.mark.parametrize("make", [gaussian, unet])
def test_a_saved_model_is_the_same_when_read(make: type, tmp_path) -> None:
    model = make()
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    loaded = load_model(str(tmp_path))
    assert type(loaded) is type(model)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    x = torch.randn(2, *model.image_shape) * 80
    sigma = torch.full((2,), 80.0)
    torch.testing.assert_close(loaded(x, sigma), model(x, sigma), rtol=0, atol=5e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_that_are_no_models_are_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="is not a model of cmap"):
        read_model(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_model(tmp_path / "broken.safetensors")
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        load_model(str(tmp_path))
    with pytest.raises(WeightsError, match="no consistency model is called nonsense"):
        load_model("nonsense")
    with pytest.raises(WeightsError, match="does not exist"):
        load_model("./nowhere/model")
