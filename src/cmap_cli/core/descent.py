"""The objective of a purification as a function of the variable that Adam changes, and the loop of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cmap_cli.core.adam import Adam
from cmap_cli.core.consistency import clip, decode, denoise, to_unit_range
from cmap_cli.core.losses import purification_objective
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.core.types import ConsistencyModel, HasDenoiser, Objective, PerceptualDistance, Step


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of a purification.

    Attributes:
        latents: ~ N(0, t_max² I), (B, K, C, H, W).
        noise: the noise of the last denoising, ~ N(0, I), (B, K, C, H, W); None if there is no denoising.
    """

    latents: Tensor
    noise: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Descent:
    """The objective of B images as a function of v, with latents z = z_0 + P·v; Adam optimises v, beginning at 0.

    Attributes:
        model: the consistency model.
        config: the settings.
        dtype: what the network computes in.
        y: targets in [-1, 1], (B, C, H, W).
        perceptual_distance: to the targets.
        start: z_0, (B, K, C, H, W).
        precondition: P.
        labels: the classes for a class-conditional model, (B, K).
        noise: the noise of the last denoising, (B, K, C, H, W); None if there is no denoising.
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
        """The final images of candidates x̂, in [0, 1]: noised and denoised once more if the settings ask for it.

        Args:
            x_hat: in [-1, 1], (B, K, C, H, W).
            straight_through: whether the clip after the denoiser lets gradients through.
        """
        if self.noise is None or not isinstance(self.model, HasDenoiser):
            return to_unit_range(x_hat)
        sigma = self.config.denoise_level
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
            on_step: called with the objective before each update.
            before_step: called with the state of Adam before each update; the update changes its v in place.
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
