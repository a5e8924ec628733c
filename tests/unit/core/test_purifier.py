"""The optimisation, on a model whose answer is known in closed form."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch

from cmap_cli.choices import Preset
from cmap_cli.core.adam import Adam
from cmap_cli.core.precondition import spectral_preconditioner
from cmap_cli.core.purifier import Purifier, image_generators, initial_latents
from cmap_cli.core.settings import FROM_INVERSE, PRESETS, PurifyConfig, preset_for
from cmap_cli.core.types import Step
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from tests.toys import DenoisingGaussian, IsotropicGaussian

QUICK = PurifyConfig(num_latents=4, steps=12)


def principal() -> GaussianConsistency:
    basis = torch.linalg.qr(torch.randn(192, 60, generator=torch.Generator().manual_seed(0)))[0].T
    return GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.logspace(0.3, -1.7, 60))


def images(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2


def test_presets_are_the_published_rows() -> None:
    assert set(PRESETS) == set(get_args(Preset))
    paper = dataclasses.astuple(PRESETS["paper"])
    assert paper == (10, 200, 2.0, (0.9, 0.99), 1.0, 2.0, 0.0005, "constant", 0.0, False, "prior", 0.0, "optimise")
    imagenet = dataclasses.astuple(PRESETS["paper-imagenet100"])
    assert imagenet == (5, 300, 2.0, (0.9, 0.99), 0.005, 0.5, 0.0002, "constant", 0.0, False, "prior", 0.0, "optimise")


def test_only_models_with_an_inverse_get_what_starts_from_it() -> None:
    for preset in get_args(Preset):
        assert preset_for(preset, IsotropicGaussian()) == PRESETS[preset]
        assert preset_for(preset, UNetConsistency(principal(), [16], preconditioning="plain")) == PRESETS[preset]
        assert preset_for(preset, principal()).start == ("inverse" if preset in FROM_INVERSE else "prior")


def test_the_inverse_starts_with_what_the_model_can_show_of_the_image() -> None:
    model, x = principal(), images()
    directions, _ = model.principal_directions()
    config = dataclasses.replace(QUICK, steps=1, lr=1e-6, start="inverse")
    found = Purifier(model, config)(x, image_generators(x, 0))
    shown = ((2 * x - 1).flatten(1) @ directions.T @ directions + 1).reshape(x.shape) / 2
    # all other directions generate noise of t_min
    torch.testing.assert_close(found.samples, shown[:, None].expand_as(found.samples), rtol=0, atol=3 * model.sigma_min)
    drawn = Purifier(model, config).draw(x, image_generators(x, 0)).latents
    moved = (found.latents - drawn).flatten(2)
    torch.testing.assert_close(moved @ directions.T @ directions, moved, rtol=0, atol=1e-3)
    assert moved.abs().mean() > 1


def test_a_model_without_an_inverse_starts_from_the_prior() -> None:
    x = images()
    found = [
        Purifier(IsotropicGaussian(), dataclasses.replace(QUICK, start=start))(x, image_generators(x, 0)).latents
        for start in ("prior", "inverse")
    ]
    assert torch.equal(*found)


def test_without_the_latent_term_every_candidate_becomes_the_input() -> None:
    model, x = IsotropicGaussian(s=0.2), images()  # so narrow that no pixel starts clipped, where gradients are zero
    config = PurifyConfig(num_latents=2, steps=300, lr=4.0, latent_weight=0.0, lr_schedule="cosine")
    result = Purifier(model, config)(x, image_generators(x, 0))
    assert (result.samples - x[:, None]).abs().max() < 2e-3
    expected = model.latent_of(2 * x - 1)[:, None].expand_as(result.latents)
    torch.testing.assert_close(result.latents, expected, rtol=0, atol=80 * 4e-3 / model.s)


def test_the_latent_term_alone_holds_the_latents_on_the_shell() -> None:
    model, x = IsotropicGaussian(s=1e-6), images(1)  # generates mu whatever the latent: only the latent term is left
    config = PurifyConfig(num_latents=6, steps=400, lr_schedule="cosine")
    before = initial_latents(model, 6, model.image_shape, image_generators(x, 0))
    after = Purifier(model, config)(x, image_generators(x, 0)).latents
    assert before.std(1).sub(80).abs().mean() > 10
    assert after.std(1).sub(80).abs().mean() < 0.1
    assert after.mean(1).abs().mean() < 0.1


def test_the_objective_returned_is_that_of_the_samples_returned() -> None:
    model, x = IsotropicGaussian(), images()
    result = Purifier(model, QUICK)(x, image_generators(x, 0))
    pixel = (2 * result.samples - 2 * x[:, None]).abs().sum((2, 3, 4))
    torch.testing.assert_close(result.objective.pixel, pixel, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(result.restoration, result.objective.pixel + 2 * result.objective.perceptual)


def test_one_latent_works() -> None:
    x = images()
    result = Purifier(IsotropicGaussian(), dataclasses.replace(QUICK, num_latents=1))(x, image_generators(x, 0))
    assert torch.isfinite(result.samples).all()
    assert torch.isfinite(result.objective.total).all()


def test_the_result_depends_neither_on_the_batch_nor_on_the_order() -> None:
    model, x = IsotropicGaussian(), images(5)
    purifier = Purifier(model, QUICK)
    together = purifier(x, image_generators(x, 7)).samples
    for order in ([0], [4, 1], [3, 2, 1, 0]):
        apart = purifier(x[order], image_generators(x[order], 7)).samples
        torch.testing.assert_close(apart, together[order], rtol=0, atol=1e-6)


def test_latents_are_the_images_and_the_seeds_own() -> None:
    model, x = IsotropicGaussian(), images(2)
    first = initial_latents(model, 3, model.image_shape, image_generators(x, 0))
    again = initial_latents(model, 3, model.image_shape, image_generators(x.flip(0), 0)).flip(0)
    other = initial_latents(model, 3, model.image_shape, image_generators(x, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert abs(float(first.std()) - 80) < 5


def test_on_step_sees_the_objective_fall() -> None:
    seen: list[Step] = []
    x = images()
    Purifier(IsotropicGaussian(), dataclasses.replace(QUICK, steps=40))(x, image_generators(x, 0), seen.append)
    assert [step.index for step in seen] == list(range(40))
    assert all(step.steps == 40 and step.total.shape == (3,) and not step.total.requires_grad for step in seen)
    assert (seen[-1].total < seen[0].total).all()


def test_cosine_falls_from_lr_to_almost_nothing() -> None:
    config = PurifyConfig(steps=100, lr=8.0, lr_schedule="cosine")
    assert config.lr_at(0) == 8.0
    assert config.lr_at(50) == pytest.approx(4.0)
    assert config.lr_at(99) < 0.01
    assert PurifyConfig(lr=3.0).lr_at(150) == 3.0


def test_models_inputs_and_settings_that_do_not_fit_are_refused() -> None:
    x = images()
    with pytest.raises(ValueError, match="frozen"):
        Purifier(torch.nn.Conv2d(3, 3, 1), QUICK)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model needs"):
        Purifier(IsotropicGaussian(), QUICK)(x[..., :4], image_generators(x, 0))
    with pytest.raises(ValueError, match="as many generators"):
        Purifier(IsotropicGaussian(), QUICK)(x, image_generators(x[:1], 0))
    for change in ({"num_latents": 0}, {"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}):
        with pytest.raises(ValueError):
            PurifyConfig(**change)  # type: ignore[arg-type]


def test_gradients_of_the_callers_context_do_not_matter() -> None:
    x = images(1)
    purifier = Purifier(IsotropicGaussian(), QUICK)
    with torch.no_grad():
        result = purifier(x, image_generators(x, 0))
    assert torch.equal(result.samples, purifier(x, image_generators(x, 0)).samples)
    assert not result.samples.requires_grad


def test_adam_is_torchs_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(50, generator=generator), torch.nn.Parameter(torch.empty(50))
    theirs.data.copy_(ours)
    adam, reference = Adam(ours, (0.9, 0.99)), torch.optim.Adam([theirs], betas=(0.9, 0.99))
    for lr in (2.0, 2.0, 1.0, 0.5):
        gradient = torch.randn(50, generator=generator) * 10
        adam.step(gradient, lr)
        reference.param_groups[0]["lr"] = lr
        theirs.grad = gradient
        reference.step()
        torch.testing.assert_close(ours, theirs.data, rtol=1e-5, atol=1e-6)


def ill_conditioned_model() -> GaussianConsistency:
    basis = torch.linalg.qr(torch.randn(192, 60, generator=torch.Generator().manual_seed(0)))[0].T
    return GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.logspace(0.3, -1.7, 60))


def test_the_preconditioner_scales_each_direction_as_it_says() -> None:
    model = ill_conditioned_model()
    directions, stds = model.principal_directions()
    precondition = spectral_preconditioner(model, 30.0)
    outside = torch.linalg.svd(directions, full_matrices=True)[2][-1]
    for vector, gain in ((directions[0], 1), (directions[20], stds[0] / stds[20]), (directions[-1], 30), (outside, 30)):
        v = vector.reshape(1, 1, 3, 8, 8)
        torch.testing.assert_close(precondition(v), v * gain, rtol=1e-3, atol=1e-4)
    v = torch.randn(1, 2, 3, 8, 8)
    assert torch.equal(spectral_preconditioner(model, 0.0)(v), v)
    assert torch.equal(spectral_preconditioner(IsotropicGaussian(), 30.0)(v), v)


def test_the_preconditioner_restores_detail_in_fewer_steps() -> None:
    model = ill_conditioned_model()
    x = (model(torch.randn(2, 3, 8, 8) * 80, torch.full((2,), 80.0)).clamp(-1, 1) + 1) / 2
    plain = PurifyConfig(num_latents=3, steps=25, latent_weight=0.0, lr_schedule="cosine")
    quicker = dataclasses.replace(plain, gain_limit=30.0)
    slow, quick = (Purifier(model, config)(x, image_generators(x, 0)).objective for config in (plain, quicker))
    assert (quick.pixel.sum(1) < 0.8 * slow.pixel.sum(1)).all()
    assert (quick.total < slow.total).all()


def test_straight_through_moves_pixels_that_start_clipped() -> None:
    model, x = IsotropicGaussian(s=2.0), images(1)  # most pixels start outside [-1, 1]
    config = PurifyConfig(num_latents=2, steps=150, lr=8.0, latent_weight=0.0, lr_schedule="cosine")
    through = dataclasses.replace(config, straight_through=True)
    stuck, moved = (Purifier(model, c)(x, image_generators(x, 0)).samples for c in (config, through))
    assert (stuck - x[:, None]).abs().max() > 0.2
    assert (moved - x[:, None]).abs().max() < 0.02
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_candidates_are_noised_and_denoised_at_the_end_by_a_model_that_can() -> None:
    x, model = images(2), DenoisingGaussian()
    refining = dataclasses.replace(QUICK, denoise_level=0.5)
    plain = Purifier(model, QUICK)(x, image_generators(x, 0))
    refined = Purifier(model, refining)(x, image_generators(x, 0))
    torch.testing.assert_close(refined.latents, plain.latents)
    generators = image_generators(x, 0)
    initial_latents(model, 4, model.image_shape, generators)
    noise = torch.stack([torch.randn(4, 3, 8, 8, generator=generator) for generator in generators])
    share = model.s**2 / (model.s**2 + 0.5**2)
    expected = (share * (2 * plain.samples - 1 + 0.5 * noise)).clamp(-1, 1)
    torch.testing.assert_close(refined.samples, (expected + 1) / 2)
    unable = Purifier(IsotropicGaussian(), refining)(x, image_generators(x, 0))
    torch.testing.assert_close(unable.samples, plain.samples)
