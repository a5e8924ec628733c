"""Muon: momentum made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of a·X + b·(XXᵀ)X + c·(XXᵀ)²X, which maps singular values in (0, 1] to about 1."""
ADAM_RMS = 0.2
"""Root mean square of Adam's updates; with it one learning rate suits both (Liu et al. 2025, arXiv 2502.16982)."""


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal factor UVᵀ of a matrix UΣVᵀ (n, m), approximately, by Newton-Schulz iteration in bfloat16.

    Singular values end between about 0.7 and 1.2.
    """
    a, b, c = QUINTIC
    x = matrix.bfloat16()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    result: Tensor = wide if x.shape[0] <= x.shape[1] else wide.T
    return result.to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """W ← W − lr·0.2·√max(n, m)·orthogonalised(g + β·v), v ← β·v + g, for weights seen as matrices (n, m).

    A convolution's weight (out, in, k, k) is the matrix (out, in·k·k).

    Args:
        params: weights of two or more dimensions.
        lr: learning rate on the scale of Adam's.
        momentum: β.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure here
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(weight)
                velocity = state["velocity"].mul_(group["momentum"]).add_(weight.grad)
                direction = weight.grad + group["momentum"] * velocity
                update = orthogonalised(direction.reshape(len(weight), -1)).reshape(weight.shape)
                size = ADAM_RMS * math.sqrt(max(len(weight), weight[0].numel()))
                weight.add_(update, alpha=-group["lr"] * size)
