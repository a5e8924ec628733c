"""Each term of the objective against an independent computation with NumPy and SciPy in float64."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import correlate1d

from cmap_cli.core.losses import latent_distribution_distance, pixel_distance, purification_objective
from cmap_cli.core.similarity import LPIPS, SSIM, Sum

B, K, C, H, W = 3, 4, 3, 12, 10
SIGMA_MAX = 80.0


def tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_hat = torch.rand((B, K, C, H, W), generator=generator) * 2 - 1
    z = torch.randn((B, K, C, H, W), generator=generator) * 60 + 5
    y = torch.rand((B, C, H, W), generator=generator) * 2 - 1
    return x_hat, z, y


def numpy_blur(image: np.ndarray) -> np.ndarray:
    offset = np.arange(11) - 5.0
    window = np.exp(-(offset**2) / (2 * 1.5**2))
    window /= window.sum()
    for axis in (-2, -1):
        image = correlate1d(image, window, axis=axis, mode="constant", cval=0.0)
    return image


def numpy_ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mu_x, mu_y = numpy_blur(x), numpy_blur(y)
    var_x, var_y = numpy_blur(x * x) - mu_x**2, numpy_blur(y * y) - mu_y**2
    cov = numpy_blur(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))


def numpy_terms(x_hat: torch.Tensor, z: torch.Tensor, y: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x64, z64, y64 = (tensor.double().numpy() for tensor in (x_hat, z, y))
    pixel = np.abs(x64 - y64[:, None]).sum((2, 3, 4))
    ssim = numpy_ssim_map((x64 + 1) / 2, np.broadcast_to((y64[:, None] + 1) / 2, x64.shape)).sum((2, 3, 4))
    mean, std = z64.mean(1), z64.std(1, ddof=1)
    latent = (mean**2).sum((1, 2, 3)) + ((std - SIGMA_MAX) ** 2).sum((1, 2, 3))
    return pixel, -ssim, latent


def test_every_term_and_the_total_equal_the_numpy_computation() -> None:
    x_hat, z, y = tensors()
    pixel, perceptual, latent = numpy_terms(x_hat, z, y)
    scale, perceptual_weight, latent_weight = 0.005, 0.5, 0.0002
    objective = purification_objective(
        x_hat,
        z,
        y,
        SSIM()((y + 1) / 2),
        sigma_max=SIGMA_MAX,
        scale=scale,
        perceptual_weight=perceptual_weight,
        latent_weight=latent_weight,
    )
    total = scale * ((pixel + perceptual_weight * perceptual).sum(1) + latent_weight * K * latent)
    np.testing.assert_allclose(objective.pixel, pixel, rtol=1e-5)
    np.testing.assert_allclose(objective.perceptual, perceptual, rtol=1e-5)
    np.testing.assert_allclose(objective.latent, latent, rtol=1e-5)
    np.testing.assert_allclose(objective.total, total, rtol=1e-5)


def test_each_term_is_of_its_own_image_only() -> None:
    x_hat, z, y = tensors()
    whole = pixel_distance(x_hat, y), SSIM()((y + 1) / 2)((x_hat + 1) / 2), latent_distribution_distance(z, SIGMA_MAX)
    for i in range(B):
        one = slice(i, i + 1)
        torch.testing.assert_close(pixel_distance(x_hat[one], y[one]), whole[0][one])
        torch.testing.assert_close(SSIM()((y[one] + 1) / 2)((x_hat[one] + 1) / 2), whole[1][one])
        torch.testing.assert_close(latent_distribution_distance(z[one], SIGMA_MAX), whole[2][one])


def test_ssim_of_an_image_with_itself_is_one() -> None:
    y = (tensors()[2] + 1) / 2
    torch.testing.assert_close(SSIM().map(y, y), torch.ones_like(y))


def test_the_written_out_gradient_of_ssim_is_autograds() -> None:
    x_hat, _, y = (tensor.double() for tensor in tensors())
    x, y = ((x_hat + 1) / 2).requires_grad_(), (y + 1) / 2
    cotangent = torch.linspace(-1, 2, B * K, dtype=torch.float64).reshape(B, K)
    written_out, by_autograd = SSIM()(y)(x), SSIM()(y.clone().requires_grad_())(x)
    torch.testing.assert_close(written_out, by_autograd, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(value, x, cotangent)[0] for value in (written_out, by_autograd)]
    assert gradients[0].abs().max() > 1
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_one_latent_leaves_only_the_mean_part_and_a_finite_gradient() -> None:
    z = tensors()[1][:, :1].requires_grad_()
    distance = latent_distribution_distance(z, SIGMA_MAX)
    np.testing.assert_allclose(distance.detach(), (z.detach().double() ** 2).sum((1, 2, 3, 4)), rtol=1e-5)
    (gradient,) = torch.autograd.grad(distance.sum(), z)
    torch.testing.assert_close(gradient, 2 * z.detach())


def test_equal_latents_have_a_finite_gradient() -> None:
    z = torch.ones(1, 3, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(latent_distribution_distance(z, SIGMA_MAX).sum(), z)
    assert torch.isfinite(gradient).all()


def test_lpips_is_scaled_to_a_sum_over_the_image_and_sums_add_up() -> None:
    x_hat, _, y = tensors()
    x, y = (x_hat + 1) / 2, (y + 1) / 2

    def network(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first - second).square().mean((1, 2, 3), keepdim=True)

    expected = (2 * x - 2 * y[:, None]).square().sum((2, 3, 4))
    torch.testing.assert_close(LPIPS(network)(y)(x), expected)
    torch.testing.assert_close(Sum((SSIM(), LPIPS(network)))(y)(x), expected + SSIM()(y)(x))
