"""Noise on an exact grid, the classifier of noisy images, and blocks of one shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.defenses.smoothed import SmoothedDefense, vote_on_samples
from cmap_cli.defenses.smoothing import (
    GRID,
    NoisyClassifier,
    block_size,
    choose_denoiser,
    classify_blocks,
    noise_key,
    noisy_samples,
    standard_noise,
)
from cmap_cli.errors import UsageError
from tests.attack_toys import ConvClassifier
from tests.toys import BrightnessClassifier, DenoisingGaussian, IsotropicGaussian

IMAGE = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255


def test_noise_is_that_of_the_sample_number() -> None:
    key = noise_key(IMAGE, 0.25, 0)
    together = noisy_samples(IMAGE, 0.25, key, range(10))
    assert torch.equal(together[7:9], noisy_samples(IMAGE, 0.25, key, [7, 8]))
    assert len({noise_key(IMAGE, sigma, seed) for sigma in (0.25, 0.5) for seed in (0, 1)}) == 4
    assert noise_key(IMAGE, 0.25, 0) != noise_key(IMAGE + 1 / 255, 0.25, 0)


def test_noise_is_standard_normal() -> None:
    drawn = np.stack([standard_noise(5, index, (3, 32, 32)) for index in range(100)])
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs(np.corrcoef(drawn[:50].ravel(), drawn[50:].ravel())[0, 1]) < 0.01


def test_every_value_is_a_whole_number_of_steps_whatever_the_image() -> None:
    """What an 8-bit image adds is a whole number of steps, so the noise's fraction tells nothing about the image."""
    one, other = torch.zeros(3, 8, 8), torch.full((3, 8, 8), 37 / 255)
    for image in (one, other):
        steps = noisy_samples(image, 0.25, 3, range(4)).double() * GRID
        assert float((steps - steps.round()).abs().max()) < 0.3  # float32 holds the quotient, not the steps
    shift = (noisy_samples(other, 0.25, 3, range(4)) - noisy_samples(one, 0.25, 3, range(4))).double() * GRID
    assert torch.equal(shift.round(), torch.full_like(shift, 37 * GRID // 255))


def test_nothing_is_clipped() -> None:
    drawn = noisy_samples(torch.zeros(3, 32, 32), 1.0, 1, range(8))
    assert float(drawn.min()) < -2
    assert float(drawn.max()) > 2


def test_the_noise_level_of_the_model_is_twice_sigma() -> None:
    """The posterior mean of a Gaussian in closed form, in the units of [0, 1]."""
    model = DenoisingGaussian(mu=0.0, s=0.4)
    h = NoisyClassifier(model, BrightnessClassifier())
    noisy = torch.full((2, 3, 8, 8), 0.6)
    sigma = torch.tensor([0.1, 0.3])
    expected = 0.5 + 0.1 * 0.2**2 / (0.2**2 + sigma**2)  # a deviation of 0.4 on [-1, 1] is 0.2 on [0, 1]
    torch.testing.assert_close(h.denoise(noisy, sigma)[:, 0, 0, 0], expected)


def test_denoisers_are_chosen_by_what_a_model_has() -> None:
    assert choose_denoiser(DenoisingGaussian(), "auto") == "posterior-mean"
    assert choose_denoiser(IsotropicGaussian(), "auto") == "consistency"
    assert choose_denoiser(DenoisingGaussian(), "consistency") == "consistency"
    assert choose_denoiser(None, "auto") == "none"
    with pytest.raises(UsageError, match="no posterior mean"):
        choose_denoiser(IsotropicGaussian(), "posterior-mean")


def test_without_a_denoiser_the_classifier_gets_the_noisy_image() -> None:
    seen: list[Tensor] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.mean((2, 3))

    noisy = noisy_samples(IMAGE, 1.0, 0, range(3))
    NoisyClassifier(None, Watching(), "none")(noisy, torch.ones(3))
    assert torch.equal(seen[0], noisy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_class_does_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    device = torch.device("cpu")
    h = NoisyClassifier(DenoisingGaussian(), ConvClassifier(), dtype=dtype)
    noisy = noisy_samples(IMAGE, 0.5, 0, range(70))
    sigma = torch.full((70,), 0.5)
    together = classify_blocks(h, noisy, sigma, device)
    alone = [classify_blocks(h, noisy[i : i + 1], sigma[:1], device)[0] for i in range(70)]
    assert together == alone


def test_blocks_have_one_shape() -> None:
    shapes: set[tuple[int, ...]] = set()

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shapes.add(tuple(x.shape))
            return x.mean((2, 3))

    h = NoisyClassifier(None, Watching(), "none")
    for count in (1, 64, 70):
        classify_blocks(h, torch.zeros(count, 3, 8, 8), torch.ones(count), torch.device("cpu"))
    assert shapes == {(block_size(8, 8, torch.device("cpu")), 3, 8, 8)}
    assert block_size(32, 32, torch.device("cpu")) == 64
    assert block_size(2000, 2000, torch.device("cpu")) == 1


def defended(samples: int = 100, s: float = 0.4) -> Defenses:
    purifier = Purifier(DenoisingGaussian(s=s), PurifyConfig(num_latents=2, steps=1))
    return Defenses(("smoothed",), BrightnessClassifier(), purifier, "soft", 2, 0, sigma=0.5, samples=samples)


def test_the_smoothed_defence_votes_over_the_samples_of_certificates() -> None:
    x = torch.stack([IMAGE, torch.full((3, 8, 8), 0.52)])
    votes, purified = vote_on_samples(defended(), x, 5)
    assert purified is None
    assert votes.sum(1).tolist() == [100, 100]
    h = NoisyClassifier(DenoisingGaussian(), BrightnessClassifier())
    noisy = noisy_samples(x[1], 0.5, noise_key(x[1], 0.5, 5), range(100))
    classes = classify_blocks(h, noisy, torch.full((100,), 0.5), torch.device("cpu"))
    assert votes[1].tolist() == [classes.count(0), classes.count(1)]


def test_the_gradient_of_the_smoothed_defence_is_that_of_finite_differences() -> None:
    module = SmoothedDefense(NoisyClassifier(DenoisingGaussian(), BrightnessClassifier()).double(), 0.1, samples=4)
    module.freeze([3])
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x)[:, 1].sum(), x)
    step = torch.zeros_like(x)
    step[0, 0, 0, 0] = 1e-3
    with torch.no_grad():
        difference = (module(x + step) - module(x - step))[0, 1] / 2e-3
    assert float(gradient.abs().sum()) > 0
    assert float(gradient[0, 0, 0, 0]) == pytest.approx(float(difference), rel=1e-2)


def test_fresh_noise_differs_and_frozen_noise_does_not() -> None:
    module = SmoothedDefense(NoisyClassifier(DenoisingGaussian(), BrightnessClassifier()), 0.5, seed=1)
    x = IMAGE[None]
    assert not torch.equal(module(x), module(x))
    module.freeze([7])
    assert torch.equal(module(x), module(x))
    assert module.passes.forward == 4
