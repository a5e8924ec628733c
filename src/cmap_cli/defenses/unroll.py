"""Gradients of purification with respect to its input: a reverse sweep over the steps of Adam.

The input enters purification through the loss, whose gradient Adam follows; so the derivative of what comes out is of
second order. With the start "inverse" it also enters through the latents that the steps begin with. A graph of all
steps would not fit into memory. The forward pass therefore keeps nothing but the state (v, m, s) before each step, and
the backward pass takes one step after the other, last first: it computes the step again with a graph, and pulls the
adjoint of (v, m, s) through it, collecting what belongs to the input.

What the exact gradient hides. The pixel term |x̂ − y|₁ has the second derivative 0 almost everywhere: in the exact
gradient it does not appear, although it is most of what holds x̂ to the input. Where x̂ is clipped no gradient passes
either. What is left reaches the input through the perceptual term; without that one the exact gradient is 0 and a high
accuracy under it shows nothing (gradient masking). ``smoothing`` above 0 is the remedy, a BPDA: the forward pass stays
as it is. Where the perceptual term has its weight, the exact gradient was found to attack as well or better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from cmap_cli.core.adam import Adam, adam_update
from cmap_cli.core.consistency import clip
from cmap_cli.core.descent import Descent, Draw
from cmap_cli.core.purifier import Purifier

State = tuple[Tensor, Tensor, Tensor]
"""V, and Adam's m and s; or the adjoint of each."""


def purify_unrolled(
    purifier: Purifier,
    x: Tensor,
    generators: Sequence[Generator],
    *,
    unroll: int | None = None,
    smoothing: float = 0.0,
    labels: Tensor | None = None,
) -> Tensor:
    """The candidates that ``purifier(x, generators)`` finds, bit for bit, with their gradient with respect to x.

    Memory: the graph of one step, and three tensors of the latents' size for each step of the sweep.

    Args:
        purifier: what is differentiated.
        x: images in [0, 1], (B, C, H, W).
        generators: one per image.
        unroll: the sweep ends after this many steps, counted from the last; None for all, which is the gradient.
        smoothing: 0 for the exact gradient. Above 0, in the backward pass only and in units of [-1, 1], |d| has the
            second derivative of √(d² + smoothing²), and clips to [-1, 1] let gradients through.
        labels: of a class-conditional model, (B,).

    Returns:
        Samples (B, K, C, H, W) in [0, 1].

    Raises:
        ValueError: see :class:`~cmap_cli.core.purifier.Purifier`; or unroll is below 1, or smoothing below 0.
    """
    if unroll is not None and unroll < 1:
        raise ValueError(f"unroll must be at least 1, not {unroll}")
    if smoothing < 0:
        raise ValueError(f"smoothing must be at least 0, not {smoothing}")
    if purifier.config.method == "denoise":
        return purifier.denoised(x, purifier.noises(x, generators), straight_through=smoothing > 0)
    draw = purifier.draw(x, generators)
    samples: Tensor = _Purify.apply(x, purifier, draw, labels, unroll, smoothing)
    return samples


class _Purify(torch.autograd.Function):
    """Purification whose backward pass is the reverse sweep."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        purifier: Purifier,
        draw: Draw,
        labels: Tensor | None,
        unroll: int | None,
        smoothing: float,
    ) -> Tensor:
        steps = purifier.config.steps
        swept = steps if unroll is None else min(unroll, steps)
        states: list[State] = []

        def keep(adam: Adam) -> None:
            if adam.steps >= steps - swept:
                states.append((adam.v.detach().clone(), adam.first, adam.second))

        descent = purifier.descent(x.detach(), draw, labels)
        z = descent.run(before_step=keep if ctx.needs_input_grad[0] else None)
        ctx.save_for_backward(x, z)
        ctx.purifier, ctx.draw, ctx.labels, ctx.states, ctx.smoothing = purifier, draw, labels, states, smoothing
        return descent.samples(descent.candidates(z))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        x, z = ctx.saved_tensors
        x = x.detach().requires_grad_()
        steps = ctx.purifier.config.steps
        # fused attention has no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            descent = ctx.purifier.descent(x, ctx.draw, ctx.labels)
            adjoint, gradient = _pull_back_samples(descent, x, z, cotangent, ctx.smoothing)
            for index in reversed(range(steps - len(ctx.states), steps)):
                state = ctx.states[index - steps]
                adjoint, contribution = _pull_back_step(descent, x, state, index, adjoint, ctx.smoothing)
                gradient += contribution
        return gradient, None, None, None, None, None


def _pull_back_samples(
    descent: Descent, x: Tensor, z: Tensor, cotangent: Tensor, smoothing: float
) -> tuple[State, Tensor]:
    """The adjoint of the last state from that of the samples, and what reaches x through the start of the latents."""
    v = torch.zeros_like(z).requires_grad_()
    moved = z + (descent.start - descent.start.detach()) + descent.precondition(v)
    x_hat = clip(descent.images(moved), straight_through=smoothing > 0)
    samples = descent.samples(x_hat, straight_through=smoothing > 0)
    adjoint, gradient = torch.autograd.grad(samples, (v, x), cotangent, retain_graph=True, materialize_grads=True)
    return (adjoint, torch.zeros_like(adjoint), torch.zeros_like(adjoint)), gradient


def _pull_back_step(
    descent: Descent, x: Tensor, state: State, index: int, adjoint: State, smoothing: float
) -> tuple[State, Tensor]:
    """The adjoint before a step from that after it, and the step's part of the gradient with respect to x."""
    config = descent.config
    v, first, second = (tensor.detach().requires_grad_() for tensor in state)
    gradient = _loss_gradient(descent, v, smoothing)
    followed = gradient.detach().requires_grad_()
    after = adam_update(v, first, second, followed, step=index + 1, lr=config.lr_at(index), betas=config.betas)
    *before, pull = torch.autograd.grad(after, (v, first, second, followed), adjoint)
    through_v, contribution = torch.autograd.grad(gradient, (v, x), pull, retain_graph=True)  # x's own graph serves all
    return (before[0] + through_v, before[1], before[2]), contribution


def _loss_gradient(descent: Descent, v: Tensor, smoothing: float) -> Tensor:
    """∇L at v as Adam gets it, with a graph to v and to the targets.

    By the chain rule in two parts, because with a straight-through clip it is no gradient of any function: what Adam
    gets leaves the clip out of ∂x̂/∂v, while ∂L/∂x̂ is taken at the clipped x̂ and changes with it.
    """
    z = descent.latents(v)
    images = descent.images(z)
    x_hat = clip(images, straight_through=smoothing > 0)
    direct = z.clone()  # the latent term's own way to z
    total = descent.objective(x_hat, direct, _absolute(smoothing)).total.sum()
    at_image, at_latent = torch.autograd.grad(total, (x_hat, direct), create_graph=True, materialize_grads=True)
    if not descent.config.straight_through:
        at_image = at_image * ((images >= -1) & (images <= 1))
    (gradient,) = torch.autograd.grad((images, direct), v, (at_image, at_latent), create_graph=True)
    return gradient


def _absolute(smoothing: float) -> Callable[[Tensor], Tensor]:
    """|d|, with the second derivative of √(d² + smoothing²) if smoothing is above 0."""
    if smoothing == 0:
        return torch.abs
    return lambda difference: _SmoothAbs.apply(difference, smoothing)


class _SmoothAbs(torch.autograd.Function):
    """|d|, whose derivative is :class:`_SmoothSign`."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, smoothing: float) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.smoothing = smoothing
        return difference.abs()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return cotangent * _SmoothSign.apply(difference, ctx.smoothing), None


class _SmoothSign(torch.autograd.Function):
    """sign(d), with the derivative s² / (d² + s²)^(3/2) of d / √(d² + s²)."""

    @staticmethod
    def forward(ctx: Any, difference: Tensor, smoothing: float) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.smoothing = smoothing
        return difference.sign()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return cotangent * ctx.smoothing**2 / (difference**2 + ctx.smoothing**2) ** 1.5, None
