"""Images of any size: models that take them, windows of large ones, gradients through both."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cmap_cli.core import sizes
from cmap_cli.core.memory import patch_batch_size
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PurifyConfig, preset_for, resolve_config
from cmap_cli.core.sizes import check_shape, pad_to_multiple, windows
from cmap_cli.core.types import Step
from cmap_cli.defenses.purified import DefendedClassifier
from cmap_cli.defenses.unroll import purify_unrolled
from cmap_cli.errors import UsageError
from cmap_cli.models.zoo import load_model
from tests.toys import DenoisingGaussian, IsotropicGaussian, QuadrantClassifier, WideBlur

DENOISE = PurifyConfig(method="denoise", steps=0, num_latents=2, denoise_level=0.2)
OPTIMISE = PurifyConfig(num_latents=2, steps=3, denoise_level=0.2)
SIZES = [(8, 8), (13, 7), (1, 1), (3, 30), (17, 16)]


def picture(height: int, width: int, count: int = 1) -> torch.Tensor:
    """Smooth colours and a texture."""
    rows, columns = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 4, width)
    wave = torch.stack([(rows + columns + phase).sin() for phase in range(3)]) * 0.3 + 0.5
    noise = torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(0))
    return (wave + 0.3 * (noise - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("config", [DENOISE, OPTIMISE], ids=["denoise", "optimise"])
@pytest.mark.parametrize("size", SIZES)
def test_candidates_have_the_size_of_the_image(config: PurifyConfig, size: tuple[int, int]) -> None:
    x = picture(*size, count=3)
    found = Purifier(WideBlur(), config)(x, image_generators(x, 0))
    assert found.samples.shape == (3, 2, 3, *size)
    assert found.latents is None if config.method == "denoise" else found.latents.shape == (3, 2, 3, *size)
    alone = Purifier(WideBlur(), config)(x[1:2], image_generators(x[1:2], 0))
    torch.testing.assert_close(alone.samples[0], found.samples[1])


def test_a_model_says_which_sizes_it_takes() -> None:
    check_shape(WideBlur(), torch.zeros(2, 3, 5, 9))
    for model, shape in (
        (WideBlur(), (2, 1, 8, 8)),
        (WideBlur(), (2, 3, 0, 8)),
        (WideBlur(), (3, 8, 8)),
        (IsotropicGaussian(), (2, 3, 8, 9)),
    ):
        with pytest.raises(ValueError, match="the model needs"):
            check_shape(model, torch.zeros(shape))


def test_padding_reflects_and_repeats_what_is_too_small() -> None:
    row = torch.arange(5.0).expand(1, 1, 8, 5)
    assert pad_to_multiple(row, 4)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert pad_to_multiple(row[..., :2], 8)[0, 0, 0].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("size", [(16, 16), (64, 100), (61, 99), (33, 17), (16, 121), (65, 41)])
def test_windows_cover_an_image_once(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(sizes, "WINDOW", 16)
    count = torch.zeros(size)
    for window in windows(WideBlur(), *size):
        count[window.used] += 1
        given = torch.zeros(size)[window.given]
        assert given.numel() <= (16 + 16) ** 2
        assert given[window.inside].shape == count[window.used].shape
        assert window.given[0].start % WideBlur.stride == window.given[1].start % WideBlur.stride == 0
    assert (count == 1).all()
    assert len(windows(IsotropicGaussian(), *size)) == 1


@pytest.mark.parametrize("size", [(61, 99), (32, 130), (130, 33)])
def test_windows_give_what_the_whole_image_gives(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    x, purifier = picture(*size, count=2), Purifier(WideBlur(), DENOISE)
    whole = purifier(x, image_generators(x, 0)).samples
    monkeypatch.setattr(sizes, "WINDOW", 16)
    told: list[Step] = []
    tiled = purifier(x, image_generators(x, 0), told.append).samples
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    count = len(windows(WideBlur(), *size))
    assert count > 4
    assert [(step.index, step.steps, step.total) for step in told] == [(i, 2 * count, None) for i in range(2 * count)]


def test_too_little_overlap_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Understated(WideBlur):
        """It sees 5 pixels far and says 4; the mean's own reach stays as it is."""

        def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return WideBlur().denoise(x, sigma)

    monkeypatch.setattr(Understated, "receptive_radius", 4)
    x = picture(60, 60)
    purifier = Purifier(Understated(), DENOISE)
    whole = purifier(x, image_generators(x, 0)).samples
    monkeypatch.setattr(sizes, "WINDOW", 16)
    tiled = purifier(x, image_generators(x, 0)).samples
    assert float((tiled - whole).abs().max()) > 1 / 255


@pytest.mark.parametrize("size", [(400, 344), (301, 427)])
def test_windows_of_the_photograph_model_give_what_the_whole_image_gives(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    model, x = load_model("photo-unet"), picture(*size)
    purifier = Purifier(model, dataclasses.replace(preset_for("fast", model), num_latents=1))
    whole = purifier(x, image_generators(x, 0)).samples
    monkeypatch.setattr(sizes, "WINDOW", 128)
    assert len(windows(model, *size)) >= 12
    tiled = purifier(x, image_generators(x, 0)).samples
    assert float((tiled - whole).abs().max()) < 0.1 / 255


def test_gradients_pass_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = WideBlur(), picture(24, 64)
    purifier, weights = Purifier(model, DENOISE), picture(24, 64)

    def gradient() -> torch.Tensor:
        inside = x.clone().requires_grad_()
        samples = purify_unrolled(purifier, inside, image_generators(x, 0))
        return torch.autograd.grad((samples * weights[:, None]).sum(), inside)[0]

    whole = gradient()
    monkeypatch.setattr(sizes, "WINDOW", 8)
    assert len(windows(model, 24, 64)) > 4
    torch.testing.assert_close(gradient(), whole)


@pytest.mark.parametrize("config", [DENOISE, OPTIMISE], ids=["denoise", "optimise"])
def test_the_white_box_gradient_is_that_of_finite_differences_at_an_odd_size(config: PurifyConfig) -> None:
    defended = DefendedClassifier(Purifier(WideBlur(), config), QuadrantClassifier(), gradient="unrolled")
    defended.freeze([3])
    x, h = picture(11, 18).double(), 1e-7  # so near that no pixel crosses a kink
    inside = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(defended(inside)[0, 1], inside)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (float(defended(x + s * h * direction)[0, 1]) for s in (1, -1))
    assert abs(ahead - behind) > 1e-12
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / (2 * h), rel=1e-4)


def test_denoising_alone_is_the_closed_form() -> None:
    model, x = DenoisingGaussian(mu=0.1), picture(8, 8)
    purifier = Purifier(model, DENOISE)
    found = purifier(x, image_generators(x, 0))
    noise = torch.stack(list(purifier.noises(x, image_generators(x, 0))), 1)
    share = model.s**2 / (model.s**2 + 0.2**2)
    expected = ((model.mu + (2 * x[:, None] - 1 + 0.2 * noise - model.mu) * share).clamp(-1, 1) + 1) / 2
    torch.testing.assert_close(found.samples, expected)
    torch.testing.assert_close(found.restoration, (2 * (expected - x[:, None])).abs().sum((-3, -2, -1)))
    assert not torch.equal(noise[:, 0], noise[:, 1])


def test_a_model_can_have_presets_of_its_own() -> None:
    photo = load_model("photo-unet")
    assert (preset_for("fast", photo).method, preset_for("paper", photo)) == ("denoise", PurifyConfig())
    optimising = resolve_config("fast", photo, method="optimise", steps=2)
    assert (optimising.method, optimising.steps) == ("optimise", 2)
    gaussian = DenoisingGaussian()
    denoising = resolve_config("balanced", gaussian, method="denoise", denoise_level=0.3, num_latents=2)
    assert (denoising.method, denoising.steps, denoising.denoise_level, denoising.num_latents) == ("denoise", 0, 0.3, 2)
    assert resolve_config("balanced", gaussian) == preset_for("balanced", gaussian)
    for options, message in (
        ({"preset": "paper", "method": "denoise"}, "needs a noise level"),
        ({"preset": "fast", "method": "denoise", "steps": 3}, "--steps does not go"),
    ):
        with pytest.raises(UsageError, match=message):
            resolve_config(model=gaussian, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no denoiser"):
        resolve_config("fast", IsotropicGaussian(), method="denoise")


def test_batches_shrink_with_the_picture() -> None:
    purifier = Purifier(WideBlur(), DENOISE)
    small, large = (patch_batch_size(purifier, torch.device("cpu"), size=size) for size in ((16, 16), (500, 700)))
    assert (small, large) == (8, 1)
