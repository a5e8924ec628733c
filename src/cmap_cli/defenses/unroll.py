"""Gradients of purification with respect to its input, computed backwards over the steps of Adam.

Purification depends on its input through the gradient of the loss, so the derivative of the result is of second order.
With the start "inverse" the latents at the start depend on the input, too. A graph of all steps would not fit into
memory. The forward pass therefore keeps only the state (v, m, s) before each step. The backward pass goes through the
steps from the last to the first: it computes each step again with a graph, propagates the adjoint of (v, m, s) through
it, and adds up the step's part of the gradient with respect to the input.

The exact gradient lacks a part. The second derivative of the pixel term |x̂ − y|₁ is 0 almost everywhere, so the term
does not appear in the exact gradient, although it is the main reason why x̂ resembles the input. Where x̂ is clipped the
gradient is 0, too. The rest of the gradient reaches the input through the perceptual term; without this term the exact
gradient is 0, and a high accuracy shows nothing (gradient masking). ``smoothing`` above 0 corrects this in the backward
pass only (BPDA). With the usual weight of the perceptual term, attacks with the exact gradient were at least as strong.
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
"""The latents v and Adam's m and s, or their adjoints."""


def purify_unrolled(
    purifier: Purifier,
    x: Tensor,
    generators: Sequence[Generator],
    *,
    unroll: int | None = None,
    smoothing: float = 0.0,
    labels: Tensor | None = None,
) -> Tensor:
    """The same candidates as ``purifier(x, generators)``, bit for bit, with their gradient with respect to x.

    Memory: the graph of one step, and three tensors of the latents' size per step of the backward pass.

    Args:
        purifier: the purification to differentiate.
        x: images in [0, 1], (B, C, H, W).
        generators: one per image.
        unroll: number of last steps that the gradient is computed through; None for all steps (the full gradient).
        smoothing: 0 for the exact gradient. Above 0, in the backward pass only and in units of [-1, 1], |d| has the
            second derivative of √(d² + smoothing²), and the clip to [-1, 1] is the identity.
        labels: classes for a class-conditional model, (B,).

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
    """Purification with the backward pass described above."""

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
    """The adjoint before a step, from the adjoint after it, and the step's part of the gradient with respect to x."""
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

    It is computed by the chain rule in two parts, because with a straight-through clip it is not the gradient of any
    function: ∂x̂/∂v is computed without the clip, ∂L/∂x̂ at the clipped x̂.
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
