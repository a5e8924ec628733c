"""Adam (Kingma & Ba 2015, arXiv 1412.6980) on one tensor.

torch.optim imports the compiler on first use, which takes longer than purifying a handful of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8
TINY = torch.finfo(torch.float32).tiny
"""Smallest ŝ whose root is taken: √ŝ has no derivative at 0. Changes no value, because ε is much larger."""


def adam_update(
    v: Tensor, first: Tensor, second: Tensor, gradient: Tensor, *, step: int, lr: float, betas: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """One step, v ← v − lr · m̂ / (√ŝ + ε), with m and s the running means of the gradient and its square.

    Hats correct the bias of starting at 0. Every element is updated on its own, so images of a batch do not interact.

    Args:
        v: the optimised tensor.
        first: m before the step, of v's shape; 0 before the first step.
        second: s before the step.
        gradient: the gradient at v.
        step: 1-based number of the step.
        lr: learning rate.
        betas: decay rates of m and s.

    Returns:
        v, m and s after the step, differentiable in all four tensors.
    """
    beta1, beta2 = betas
    first = first.lerp(gradient, 1 - beta1)
    second = (second * beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (second / (1 - beta2**step)).clamp(min=TINY).sqrt() + EPS
    return v.addcdiv(first, denominator, value=-lr / (1 - beta1**step)), first, second


class Adam:
    """A tensor and its two running means, see :func:`adam_update`.

    Args:
        v: the optimised tensor; changed in place.
        betas: decay rates of m and s.
    """

    def __init__(self, v: Tensor, betas: tuple[float, float]) -> None:
        self.v = v
        self.betas = betas
        self.first = torch.zeros_like(v)
        self.second = torch.zeros_like(v)
        self.steps = 0

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: float) -> None:
        """One update with the gradient at v."""
        self.steps += 1
        v, self.first, self.second = adam_update(
            self.v, self.first, self.second, gradient, step=self.steps, lr=lr, betas=self.betas
        )
        self.v.copy_(v)
