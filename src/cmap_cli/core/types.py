"""The protocols the method is written against and the frozen records it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from torch import Tensor


class Classifier(Protocol):
    """Images in [0, 1], (N, C, H, W) -> logits, (N, classes). The classifier normalises them itself."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class ConsistencyModel(Protocol):
    """f(x, t): a point on the probability-flow ODE at noise level t -> the ODE's origin.

    Attributes:
        sigma_min: t_min, the level at which f is the identity.
        sigma_max: t_max, the level of the prior N(0, t_max² I).
        image_shape: (C, H, W); for a model of any size (:class:`TakesAnySize`) only C is fixed.
    """

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def __call__(self, x: Tensor, sigma: Tensor, /, *labels: Tensor) -> Tensor:
        """X (N, C, H, W) and noise levels (N,) -> images (N, C, H, W) in the model's range, [-1, 1] unclipped.

        A class-conditional model, one with ``num_classes`` above 0, is given int64 labels (N,) too.
        """
        ...


@runtime_checkable
class HasDenoiser(Protocol):
    """A consistency model whose network also estimates E[x_0 | x_t], the posterior mean."""

    def denoise(self, x: Tensor, sigma: Tensor, /) -> Tensor:
        """X (N, C, H, W) and noise levels (N,) -> images (N, C, H, W) in the model's range, [-1, 1] unclipped."""
        ...


@runtime_checkable
class HasInverse(Protocol):
    """A consistency model that can compute, exactly or nearly, which latents generate an image.

    Attributes:
        invertible: whether this one can.
    """

    @property
    def invertible(self) -> bool: ...

    def invert(self, x: Tensor, z: Tensor, /) -> Tensor:
        """Latents that generate nearly x, each as close to its z as possible; differentiable in x.

        Args:
            x: images in the model's range, (B, C, H, W).
            z: latents, (B, K, C, H, W).

        Returns:
            (B, K, C, H, W).
        """
        ...


def has_inverse(model: ConsistencyModel) -> TypeGuard[HasInverse]:
    """Whether purification can start from the model's inverse."""
    return isinstance(model, HasInverse) and model.invertible


@runtime_checkable
class TakesAnySize(Protocol):
    """A fully convolutional consistency model: it takes images of any height and width.

    :mod:`cmap_cli.core.sizes` extends images to multiples of the stride by reflection and crops the result.

    Attributes:
        stride: pixels; the model receives only images whose sides are multiples of it.
        receptive_radius: pixels; input that is farther away in a row or column leaves an output pixel unchanged.
    """

    @property
    def stride(self) -> int: ...

    @property
    def receptive_radius(self) -> int: ...


@runtime_checkable
class DenoisesOnly(Protocol):
    """A consistency model that may have been trained to denoise only: f(z, t_max) of noise is then no image.

    Attributes:
        generates: whether latents of the prior generate images.
    """

    @property
    def generates(self) -> bool: ...


def generates(model: ConsistencyModel) -> bool:
    """Whether latents of the prior generate images, which the optimisation of latents needs."""
    return not isinstance(model, DenoisesOnly) or model.generates


def num_classes(model: ConsistencyModel) -> int:
    """How many classes a model is conditioned on, 0 for none."""
    return int(getattr(model, "num_classes", 0))


PerceptualDistance = Callable[[Tensor], Tensor]
"""Candidates (B, K, C, H, W) in [0, 1] -> distance to a fixed target, (B, K); lower means more similar."""

Similarity = Callable[[Tensor], PerceptualDistance]
"""Targets (B, C, H, W) in [0, 1] -> their PerceptualDistance, which computes once what depends on the target alone."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The terms of the purification objective of B images with K latents each, before their weights.

    Attributes:
        pixel: |x̂_k − y|₁ in the model's range, (B, K).
        perceptual: the perceptual distance, (B, K).
        latent: ‖mean_k z‖² + ‖std_k z − t_max‖², (B,).
        total: the weighted sum that is minimised, (B,).
    """

    pixel: Tensor
    perceptual: Tensor
    latent: Tensor
    total: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One optimisation step, or the denoising of one window: ``on_step`` is called with it before it is done.

    Attributes:
        index: 0-based number of the step.
        steps: how many there will be.
        total: the objective before the step's update, (B,), detached and on the device; None where steps are the
            windows of a denoising (:mod:`cmap_cli.core.sizes`).
    """

    index: int
    steps: int
    total: Tensor | None


@dataclass(frozen=True, slots=True)
class Purification:
    """What purification found for B images.

    Attributes:
        samples: the K purified candidates of each image, (B, K, C, H, W) in [0, 1], denoised at the end if that is set.
        restoration: pixel plus weighted perceptual term of each candidate, (B, K); lower is closer to the input. The
            pixel term alone where nothing was optimised.
        latents: the latents of the candidates, (B, K, C, H, W); None where nothing was optimised.
        objective: the terms of the objective at these latents; None where nothing was optimised.
    """

    samples: Tensor
    restoration: Tensor
    latents: Tensor | None = None
    objective: Objective | None = None
