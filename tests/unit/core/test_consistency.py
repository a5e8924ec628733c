from __future__ import annotations

import torch

from cmap_cli.core.consistency import c_in, c_noise, c_out, c_skip, generate, to_model_range, to_unit_range
from tests.toys import IsotropicGaussian


def test_preconditioning_has_its_known_values() -> None:
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    torch.testing.assert_close(c_skip(sigma)[0], torch.tensor(1.0, dtype=torch.float64))
    assert c_out(sigma)[0] == 0
    torch.testing.assert_close(c_skip(sigma)[2].item(), 0.25 / (79.998**2 + 0.25))
    torch.testing.assert_close(c_out(sigma)[2].item(), 79.998 * 0.5 / (6400.25**0.5))
    torch.testing.assert_close(c_in(sigma)[1].item(), 1 / 0.5**0.5)
    torch.testing.assert_close(c_noise(torch.tensor(80.0)).item(), 1.0955067)


def test_generation_is_clipped_and_in_one_call() -> None:
    calls = []

    class Counting(IsotropicGaussian):
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            calls.append((x.shape, sigma.unique().tolist()))
            return super().__call__(x, sigma)

    model = Counting(s=0.5)
    z = torch.randn(2, 5, 3, 8, 8) * 400
    images = generate(model, z)
    assert calls == [((10, 3, 8, 8), [80.0])]
    assert images.shape == z.shape
    assert images.abs().max() == 1
    torch.testing.assert_close(images, model(z.flatten(0, 1), torch.full((10,), 80.0)).clamp(-1, 1).view_as(z))


def test_ranges_are_inverse() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(to_unit_range(to_model_range(x)), x)
    assert to_model_range(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
