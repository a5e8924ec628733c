"""The gradient of purification against finite differences, and what smoothing changes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Generator, Tensor

from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.core.similarity import LPIPS, SSIM, Sum
from cmap_cli.core.types import ConsistencyModel
from cmap_cli.defenses.unroll import _SmoothAbs, purify_unrolled
from cmap_cli.models.networks.gaussian import GaussianConsistency
from tests.toys import ConditionalGaussian, DenoisingGaussian, IsotropicGaussian

PLAIN = PurifyConfig(num_latents=4, steps=6)
QUICKER = dataclasses.replace(PLAIN, lr_schedule="cosine", gain_limit=30.0, straight_through=True, denoise_level=0.2)

INVERSE = dataclasses.replace(QUICKER, start="inverse", lr=0.3)


def gaussian() -> GaussianConsistency:
    basis = torch.linalg.qr(torch.randn(192, 60, generator=Generator().manual_seed(0)))[0].T
    return GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.logspace(0.3, -1.7, 60)).double()


def images(dtype: torch.dtype = torch.float64, count: int = 2) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=Generator().manual_seed(0), dtype=dtype) * 0.6 + 0.2


def generators(count: int = 2) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in range(count)]


def weights(x: Tensor) -> Tensor:
    return torch.randn((len(x), 4, 3, 8, 8), generator=Generator().manual_seed(5), dtype=torch.float64).to(x)


def gradient(purifier: Purifier, x: Tensor, *, unroll: int | None = None, smoothing: float = 0.0) -> Tensor:
    x = x.clone().requires_grad_()
    samples = purify_unrolled(purifier, x, generators(len(x)), unroll=unroll, smoothing=smoothing)
    return torch.autograd.grad((samples * weights(x)).sum(), x)[0]


@pytest.mark.parametrize("config", [PLAIN, QUICKER, INVERSE, dataclasses.replace(QUICKER, num_latents=1)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_samples_are_the_purifiers_bit_for_bit(config: PurifyConfig, smoothing: float) -> None:
    purifier, x = Purifier(gaussian().float(), config), images(torch.float32)
    expected = purifier(x, generators()).samples
    assert torch.equal(purify_unrolled(purifier, x, generators(), smoothing=smoothing), expected)
    assert torch.equal(purify_unrolled(purifier, x.requires_grad_(), generators(), smoothing=smoothing), expected)


@pytest.mark.parametrize("config", [PLAIN, QUICKER], ids=["plain", "quicker"])
@pytest.mark.parametrize(
    "model", [IsotropicGaussian(s=0.2), IsotropicGaussian(s=1.0), DenoisingGaussian(s=0.2), gaussian()]
)
def test_the_exact_gradient_is_that_of_finite_differences(model: ConsistencyModel, config: PurifyConfig) -> None:
    purifier, x, h = Purifier(model, config), images(), 1e-7  # so near that no pixel crosses a kink
    direction = torch.randn(x.shape, generator=Generator().manual_seed(6), dtype=torch.float64)
    ahead, behind = ((purifier(x + s * h * direction, generators()).samples * weights(x)).sum() for s in (1, -1))
    along = (gradient(purifier, x) * direction).sum()
    torch.testing.assert_close(along, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)
    truncated = (gradient(purifier, x, unroll=1) * direction).sum()
    assert abs(truncated - along) > 0.5 * abs(along)


class SmoothLpips:
    """Like LPIPS: mean squared differences of features; these are smooth, so that differences of them are exact."""

    def __init__(self) -> None:
        self.filters = torch.randn((6, 3, 3, 3), generator=Generator().manual_seed(1), dtype=torch.float64)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        one, other = (torch.tanh(torch.nn.functional.conv2d(each, self.filters)) for each in (x, y))
        return (one - other).square().mean((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("config", [PLAIN, QUICKER, INVERSE])
def test_the_exact_gradient_passes_lpips_and_its_sum_with_ssim(config: PurifyConfig) -> None:
    x, h = images(), 1e-7
    direction = torch.randn(x.shape, generator=Generator().manual_seed(6), dtype=torch.float64)
    found = []
    for similarity in (LPIPS(SmoothLpips()), Sum((SSIM(), LPIPS(SmoothLpips())))):
        purifier = Purifier(gaussian(), config, similarity)
        ahead, behind = ((purifier(x + s * h * direction, generators()).samples * weights(x)).sum() for s in (1, -1))
        found.append((gradient(purifier, x) * direction).sum())
        torch.testing.assert_close(found[-1], (ahead - behind) / (2 * h), rtol=1e-4, atol=1e-6)
    assert found[0] != found[1]


def test_the_exact_gradient_passes_a_class_conditional_model() -> None:
    purifier, x, h = Purifier(ConditionalGaussian(s=0.2), PLAIN), images(), 1e-7
    labels = torch.tensor([0, 1])
    direction = torch.randn(x.shape, generator=Generator().manual_seed(6), dtype=torch.float64)
    inside = x.clone().requires_grad_()
    samples = purify_unrolled(purifier, inside, generators(), labels=labels)
    assert torch.equal(samples, purifier(x, generators(), labels=labels).samples)
    assert not torch.equal(samples, purifier(x, generators(), labels=1 - labels).samples)
    along = (torch.autograd.grad((samples * weights(x)).sum(), inside)[0] * direction).sum()
    ahead, behind = (
        (purifier(x + s * h * direction, generators(), labels=labels).samples * weights(x)).sum() for s in (1, -1)
    )
    torch.testing.assert_close(along, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)


def test_the_exact_gradient_from_the_inverse_is_that_of_finite_differences() -> None:
    purifier, x, h = Purifier(gaussian(), INVERSE), images(), 1e-7
    direction = torch.randn(x.shape, generator=Generator().manual_seed(6), dtype=torch.float64)
    ahead, behind = ((purifier(x + s * h * direction, generators()).samples * weights(x)).sum() for s in (1, -1))
    along = (gradient(purifier, x) * direction).sum()
    torch.testing.assert_close(along, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_includes_the_latents_at_the_start(smoothing: float) -> None:
    purifier, x = Purifier(gaussian(), dataclasses.replace(INVERSE, steps=1, lr=1e-9, denoise_level=0.0)), images()
    directions = gaussian().principal_directions()[0]
    projected = (weights(x).sum(1).flatten(1) @ directions.T @ directions).reshape(x.shape)
    torch.testing.assert_close(gradient(purifier, x, smoothing=smoothing), projected, rtol=1e-4, atol=1e-5)


def test_unroll_counts_steps_from_the_last() -> None:
    purifier, x = Purifier(gaussian(), PLAIN), images()
    whole = gradient(purifier, x)
    assert torch.equal(gradient(purifier, x, unroll=6), whole)
    assert torch.equal(gradient(purifier, x, unroll=99), whole)
    errors = [float((gradient(purifier, x, unroll=n) - whole).norm()) for n in (1, 3, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_no_image_has_a_part_in_anothers_gradient() -> None:
    purifier, x = Purifier(IsotropicGaussian(), QUICKER), images()
    torch.testing.assert_close(gradient(purifier, x[:1]), gradient(purifier, x)[:1], rtol=1e-9, atol=1e-12)


def test_the_pixel_term_is_invisible_to_the_exact_gradient_and_smoothing_shows_it() -> None:
    purifier, x = Purifier(IsotropicGaussian(s=0.2), dataclasses.replace(PLAIN, perceptual_weight=0.0)), images()
    assert gradient(purifier, x).count_nonzero() == 0
    assert (gradient(purifier, x, smoothing=0.1) != 0).all()


def test_smoothing_lets_gradients_through_the_last_clip() -> None:
    purifier, x = Purifier(IsotropicGaussian(s=2.0), PLAIN), images().requires_grad_()
    gradients = []
    for smoothing in (0.0, 0.1):
        samples = purify_unrolled(purifier, x, generators(), smoothing=smoothing)
        clipped = (samples == 0) | (samples == 1)
        assert clipped.any()
        gradients.append(torch.autograd.grad(samples[clipped].sum(), x)[0])
    assert gradients[0].count_nonzero() == 0
    assert gradients[1].count_nonzero() > 0


def test_smooth_abs_has_the_value_and_slope_of_abs_and_the_curvature_of_the_root() -> None:
    d = torch.linspace(-1, 1, 21, dtype=torch.float64).requires_grad_()
    curvatures = []
    for function in (lambda d: _SmoothAbs.apply(d, 0.1), lambda d: (d**2 + 0.01).sqrt()):
        value = function(d)
        (slope,) = torch.autograd.grad(value.sum(), d, create_graph=True)
        curvatures.append(torch.autograd.grad(slope.sum(), d)[0])
    assert torch.equal(_SmoothAbs.apply(d, 0.1), d.abs())
    assert torch.equal(torch.autograd.grad(_SmoothAbs.apply(d, 0.1).sum(), d)[0], d.sign())
    torch.testing.assert_close(*curvatures)


class Attention(torch.nn.Module):
    """Pixels that look at each other, with torch's fused attention."""

    sigma_min, sigma_max, image_shape = 0.002, 80.0, (3, 8, 8)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        tokens = (x / sigma[:, None, None, None]).flatten(2).mT[:, None]
        mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return (tokens + mixed)[:, 0].mT.reshape(x.shape) * 0.3


def test_networks_with_fused_attention_have_a_gradient() -> None:
    assert gradient(Purifier(Attention(), PLAIN), images(torch.float32)).abs().min() > 0


def test_values_out_of_range_are_refused() -> None:
    purifier, x = Purifier(IsotropicGaussian(), PLAIN), images()
    with pytest.raises(ValueError, match="unroll must be at least 1"):
        purify_unrolled(purifier, x, generators(), unroll=0)
    with pytest.raises(ValueError, match="smoothing must be at least 0"):
        purify_unrolled(purifier, x, generators(), smoothing=-0.1)
