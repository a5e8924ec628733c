"""Purification: optimise K latents an image until what they generate matches it (arXiv 2412.08394)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from cmap_cli.core.adam import Adam
from cmap_cli.core.consistency import clip, decode, denoise, to_model_range, to_unit_range
from cmap_cli.core.losses import purification_objective
from cmap_cli.core.precondition import spectral_preconditioner
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.core.similarity import SSIM
from cmap_cli.core.types import (
    ConsistencyModel,
    HasDenoiser,
    Objective,
    PerceptualDistance,
    Purification,
    Similarity,
    Step,
    has_inverse,
    num_classes,
)


def image_generators(x: Tensor, seed: int) -> list[Generator]:
    """One CPU generator an image, seeded from ``seed`` and the image's own values.

    The same image gets the same latents whatever its name, its place in a batch or the batch's size.

    Args:
        x: images in [0, 1], (B, C, H, W), float32.
        seed: any integer.
    """
    generators = []
    for image in x.detach().to("cpu", torch.float32).contiguous():
        digest = hashlib.sha256(f"{seed}:{tuple(image.shape)}:".encode() + image.numpy().tobytes()).digest()
        generators.append(Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1))
    return generators


def initial_latents(model: ConsistencyModel, num_latents: int, generators: Sequence[Generator]) -> Tensor:
    """z_k ~ N(0, t_max² I), (B, K, C, H, W) float32 on the CPU, one generator an image."""
    return standard_normal((num_latents, *model.image_shape), generators) * model.sigma_max


def standard_normal(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """N(0, I), (B, *shape) float32 on the CPU, one generator an image."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of a purification.

    Attributes:
        latents: ~ N(0, t_max² I), (B, K, C, H, W).
        noise: of the last denoising, ~ N(0, I), (B, K, C, H, W); None without one.
    """

    latents: Tensor
    noise: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Descent:
    """The objective of B images as a function of v, with latents z = z_0 + P·v; Adam moves v from 0.

    Attributes:
        model: the consistency model.
        config: the settings.
        dtype: what the network computes in.
        y: targets in [-1, 1], (B, C, H, W).
        perceptual_distance: to the targets.
        start: z_0, (B, K, C, H, W).
        precondition: P.
        labels: of a class-conditional model, (B, K).
        noise: of the last denoising, (B, K, C, H, W); None without one.
    """

    model: ConsistencyModel
    config: PurifyConfig
    dtype: torch.dtype
    y: Tensor
    perceptual_distance: PerceptualDistance
    start: Tensor
    precondition: Callable[[Tensor], Tensor]
    labels: Tensor | None = None
    noise: Tensor | None = None

    def latents(self, v: Tensor) -> Tensor:
        """The latents z = z_0 + P·v, (B, K, C, H, W)."""
        return self.start + self.precondition(v)

    def images(self, z: Tensor) -> Tensor:
        """f(z, t_max), (B, K, C, H, W), not yet clipped."""
        with torch.autocast(z.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return decode(self.model, z, self.labels)

    def candidates(self, z: Tensor) -> Tensor:
        """x̂ in [-1, 1], (B, K, C, H, W)."""
        return clip(self.images(z), straight_through=self.config.straight_through)

    def samples(self, x_hat: Tensor, *, straight_through: bool = False) -> Tensor:
        """What candidates x̂ end as, in [0, 1]: noised and denoised once more where that is asked for.

        Args:
            x_hat: in [-1, 1], (B, K, C, H, W).
            straight_through: whether the clip after the denoiser lets gradients through.
        """
        if self.noise is None or not isinstance(self.model, HasDenoiser):
            return to_unit_range(x_hat)
        sigma = self.config.refine_sigma
        with torch.autocast(x_hat.device.type, self.dtype, enabled=self.dtype != torch.float32):
            denoised = denoise(self.model, x_hat + sigma * self.noise, sigma)
        return to_unit_range(clip(denoised, straight_through=straight_through))

    def objective(self, x_hat: Tensor, z: Tensor, absolute: Callable[[Tensor], Tensor] = torch.abs) -> Objective:
        """L and its terms, see :func:`~cmap_cli.core.losses.purification_objective`."""
        return purification_objective(
            x_hat,
            z,
            self.y,
            self.perceptual_distance,
            sigma_max=self.model.sigma_max,
            scale=self.config.scale,
            perceptual_weight=self.config.perceptual_weight,
            latent_weight=self.config.latent_weight,
            absolute=absolute,
        )

    def run(
        self, on_step: Callable[[Step], None] | None = None, before_step: Callable[[Adam], None] | None = None
    ) -> Tensor:
        """The latents after all steps, (B, K, C, H, W).

        Args:
            on_step: told the objective before each update.
            before_step: shown the state before each update, of which v is changed in place.
        """
        v = torch.zeros_like(self.start).requires_grad_()
        adam = Adam(v, self.config.betas)
        for index in range(self.config.steps):
            if before_step is not None:
                before_step(adam)
            with torch.enable_grad():
                z = self.latents(v)
                total = self.objective(self.candidates(z), z).total
                (gradient,) = torch.autograd.grad(total.sum(), v)
            if on_step is not None:
                on_step(Step(index, self.config.steps, total.detach()))
            adam.step(gradient, self.config.lr_at(index))
        with torch.no_grad():
            return self.latents(v)


@dataclass(frozen=True)
class Purifier:
    """Perceptual consistency restoration under the latent distribution constraint.

    Attributes:
        model: the consistency model; its parameters must not require gradients (ValueError otherwise).
        config: the settings.
        similarity: the perceptual term; SSIM in the paper.
        dtype: what the network computes in (autocast); latents, objective and Adam stay float32.
    """

    model: ConsistencyModel
    config: PurifyConfig = field(default_factory=PurifyConfig)
    similarity: Similarity = field(default_factory=SSIM)
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Refuse a model whose weight gradients would be computed and thrown away at every step."""
        if isinstance(self.model, torch.nn.Module) and any(p.requires_grad for p in self.model.parameters()):
            raise ValueError("the consistency model must be frozen: call model.requires_grad_(False)")

    @property
    def refines(self) -> bool:
        """Whether candidates are denoised at the end."""
        return self.config.refine_sigma > 0 and isinstance(self.model, HasDenoiser)

    def draw(self, x: Tensor, generators: Sequence[Generator]) -> Draw:
        """The latents that purification of x starts from, or that its start is made of, and the noise it ends with.

        Returns:
            Both on x's device.

        Raises:
            ValueError: the images have another shape than the model's, or the number of generators is not B.
        """
        if x.ndim != 1 + len(self.model.image_shape) or tuple(x.shape[1:]) != tuple(self.model.image_shape):
            raise ValueError(f"images are {tuple(x.shape)}, the model needs (B, *{tuple(self.model.image_shape)})")
        if len(generators) != len(x):
            raise ValueError(f"{len(x)} images need as many generators, not {len(generators)}")
        latents = initial_latents(self.model, self.config.num_latents, generators).to(x)
        if not self.refines:
            return Draw(latents)
        return Draw(latents, standard_normal(latents.shape[1:], generators).to(x))

    def descent(self, x: Tensor, draw: Draw, labels: Tensor | None = None) -> Descent:
        """What is minimised for images x in [0, 1], (B, C, H, W), from the drawn latents or the inverse made of them.

        Raises:
            ValueError: labels, (B,), are missing or not wanted.
        """
        if (labels is not None) != bool(num_classes(self.model)):
            raise ValueError(f"a model of {num_classes(self.model)} classes, labels {labels}")
        y, start = to_model_range(x), draw.latents
        if self.config.start == "inverse" and has_inverse(self.model):
            start = self.model.invert(y, draw.latents)
        return Descent(
            self.model,
            self.config,
            self.dtype,
            y,
            self.similarity(x),
            start,
            spectral_preconditioner(self.model, self.config.gain_limit),
            None if labels is None else labels[:, None].expand(-1, self.config.num_latents),
            draw.noise,
        )

    def __call__(
        self,
        x: Tensor,
        generators: Sequence[Generator],
        on_step: Callable[[Step], None] | None = None,
        labels: Tensor | None = None,
    ) -> Purification:
        """Purify a batch; no image influences another.

        Args:
            x: images in [0, 1], (B, C, H, W), on the model's device.
            generators: one CPU generator an image, see :func:`image_generators`.
            on_step: called before each update; reading its values costs a device synchronisation.
            labels: the class of each image for a class-conditional model, (B,) int64 on the model's device.

        Raises:
            ValueError: the images have another shape than the model's, the number of generators is not B, or labels
                are missing or not wanted.
        """
        descent = self.descent(x, self.draw(x, generators), labels)
        z = descent.run(on_step)
        with torch.no_grad():
            x_hat = descent.candidates(z)
            objective = descent.objective(x_hat, z)
            samples = descent.samples(x_hat)
        restoration = objective.pixel + self.config.perceptual_weight * objective.perceptual
        return Purification(samples, z, objective, restoration)
