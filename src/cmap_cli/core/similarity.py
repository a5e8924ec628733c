"""Perceptual terms: differentiable SSIM, LPIPS, and their sum. What depends on the target alone is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmap_cli.core.types import PerceptualDistance, Similarity


def gaussian_window(size: int, sigma: float) -> Tensor:
    """The 1-D Gaussian window of SSIM, float64 (size,), normalised to sum 1."""
    offset = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-(offset**2) / (2 * sigma**2))
    return window / window.sum()


def blur_matrix(length: int, window: Tensor) -> Tensor:
    """The matrix A (length, length) with A @ v = v convolved with ``window``, zeros beyond the ends.

    A separable blur of an image X is then A_h X A_wᵀ: two small products, quicker than a depthwise convolution.
    """
    radius = len(window) // 2
    index = torch.arange(length)
    offset = index[None, :] - index[:, None] + radius
    inside = (offset >= 0) & (offset < len(window))
    return torch.where(inside, window[offset.clamp(0, len(window) - 1)], torch.zeros(()).to(window))


@dataclass(frozen=True, slots=True)
class SSIM:
    """Structural similarity (Wang et al. 2004) with the settings of METHOD: 11×11 Gaussian window, zero padding.

    S = (2 μ_x μ_y + C1)(2 σ_xy + C2) / ((μ_x² + μ_y² + C1)(σ_x² + σ_y² + C2)), on images in [0, 1].
    """

    window_size: int = 11
    window_sigma: float = 1.5
    c1: float = 0.01**2
    c2: float = 0.03**2

    def blur(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """The window's blur over the last two axes of tensors shaped like ``like``."""
        window = gaussian_window(self.window_size, self.window_sigma)
        rows = blur_matrix(like.shape[-2], window).to(like)
        columns = blur_matrix(like.shape[-1], window).to(like).mT.contiguous()
        return lambda x: rows @ x @ columns

    def map(self, x: Tensor, y: Tensor) -> Tensor:
        """The SSIM map of images in [0, 1] that broadcast against each other; same shape, 1 where they agree."""
        return self.to(y)(x)

    def to(self, y: Tensor) -> Callable[[Tensor], Tensor]:
        """The function x -> SSIM map of x and y, with the statistics of y computed once."""
        target = Target(self, y)

        def ssim_map(x: Tensor) -> Tensor:
            a1, a2, b1, b2, _ = target.factors(x)
            return a1 / b1 * a2 / b2

        return ssim_map

    def __call__(self, y: Tensor) -> PerceptualDistance:
        """−S summed over pixels and channels; a :data:`~cmap_cli.core.types.Similarity`.

        If y needs no gradient, the gradient with respect to x is computed by formula (:class:`_NegativeSum`), which is
        faster than autograd. It has no second derivative; only gradients with respect to y need one.
        """
        if y.requires_grad:
            ssim_map = self.to(y.unsqueeze(1))
            return lambda x: -ssim_map(x).sum((-3, -2, -1))
        target = Target(self, y.unsqueeze(1))

        def distance(x: Tensor) -> Tensor:
            total: Tensor = _NegativeSum.apply(x, target)
            return total

        return distance


class Target:
    """What SSIM needs of an image y in [0, 1], computed once."""

    def __init__(self, ssim: SSIM, y: Tensor) -> None:
        self.y = y
        self.blur = ssim.blur(y)
        self.mean = self.blur(y)
        square = self.mean**2
        self.mean_part = square + ssim.c1
        self.variance_part = self.blur(y * y) - square + ssim.c2
        self.c1, self.c2 = ssim.c1, ssim.c2

    def factors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The factors of S = A1·A2 / (B1·B2) in the order of :class:`SSIM`, and μ_x; each of x's shape."""
        mean = self.blur(x)
        product, square = mean * self.mean, mean * mean
        a1 = 2 * product + self.c1
        a2 = 2 * (self.blur(x * self.y) - product) + self.c2
        return a1, a2, square + self.mean_part, self.blur(x * x) - square + self.variance_part, mean


class _NegativeSum(torch.autograd.Function):
    """−S summed over the last three axes, its gradient computed with it.

    S depends on x through the blurs p = μ_x, q of x² and r of x·y, and the blur is its own adjoint:

        ∂ΣS/∂x = blur(∂S/∂p) + 2x · blur(∂S/∂q) + y · blur(∂S/∂r), where ∂S/∂r = 2·A1/(B1·B2), ∂S/∂q = −S/B2,
        ∂S/∂p = 2·μ_y·(A2 − A1)/(B1·B2) + 2p·(S/B2 − S/B1).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Target) -> Tensor:
        a1, a2, b1, b2, p = target.factors(x)
        inverse = (b1 * b2).reciprocal_()
        s = (a1 * a2).mul_(inverse)
        total = -s.sum((-3, -2, -1))
        if ctx.needs_input_grad[0]:
            over_b2 = s / b2
            at_p = a2.sub_(a1).mul_(inverse).mul_(target.mean).addcmul_(p, over_b2 - s.div_(b1))
            gradient = target.blur(at_p).addcmul_(target.y, target.blur(a1.mul_(inverse)))
            ctx.save_for_backward(gradient.addcmul_(x, target.blur(over_b2), value=-1).mul_(-2))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * cotangent[..., None, None, None], None


@dataclass(frozen=True, slots=True)
class LPIPS:
    """LPIPS (Zhang et al. 2018, arXiv 1801.03924), scaled to the size of a sum over pixels and channels.

    LPIPS is a mean over the image. Multiplied by C·H·W it has the scale of the other terms, which are sums.

    Attributes:
        network: (x, y) in [-1, 1], (N, 3, H, W) each -> (N, 1, 1, 1), as the lpips package's module does.
    """

    network: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, y: Tensor) -> PerceptualDistance:
        """C·H·W · LPIPS(x, y); a :data:`~cmap_cli.core.types.Similarity`."""

        def distance(x: Tensor) -> Tensor:
            target = y.unsqueeze(1).expand_as(x)
            lpips = self.network(2 * x.flatten(0, 1) - 1, 2 * target.flatten(0, 1) - 1)
            return lpips.reshape(x.shape[:2]) * y[0].numel()

        return distance


@dataclass(frozen=True, slots=True)
class Sum:
    """Several perceptual distances added up."""

    similarities: Sequence[Similarity]

    def __call__(self, y: Tensor) -> PerceptualDistance:
        """The sum of the distances; a :data:`~cmap_cli.core.types.Similarity`."""
        distances = [similarity(y) for similarity in self.similarities]
        return lambda x: torch.stack([distance(x) for distance in distances]).sum(0)
