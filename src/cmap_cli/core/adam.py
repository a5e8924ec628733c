"""Adam (Kingma & Ba 2015, arXiv 1412.6980) on one tensor.

torch.optim imports the compiler on first use, which takes longer than purifying a handful of images.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


class Adam:
    """v ← v − lr · m̂ / (√ŝ + ε), m and s the running means of the gradient and of its square, hats for their bias.

    Every element is updated on its own, so images of a batch do not interact.

    Args:
        v: what is optimised; changed in place.
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
        beta1, beta2 = self.betas
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = (self.second / (1 - beta2**self.steps)).sqrt_().add_(EPS)
        self.v.addcdiv_(self.first, denominator, value=-lr / (1 - beta1**self.steps))
