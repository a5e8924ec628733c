"""Purification: optimise K latents per image until their images match it (arXiv 2412.08394), or denoise it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from cmap_cli.core.consistency import clip, denoise, to_model_range, to_unit_range
from cmap_cli.core.descent import Descent, Draw
from cmap_cli.core.losses import pixel_distance
from cmap_cli.core.precondition import spectral_preconditioner
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.core.similarity import SSIM
from cmap_cli.core.sizes import check_shape, windows
from cmap_cli.core.types import (
    ConsistencyModel,
    HasDenoiser,
    Purification,
    Similarity,
    Step,
    has_inverse,
    num_classes,
)


def image_generators(x: Tensor, seed: int) -> list[Generator]:
    """One CPU generator per image, seeded from ``seed`` and the image's own values.

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


def initial_latents(
    model: ConsistencyModel, num_latents: int, shape: Sequence[int], generators: Sequence[Generator]
) -> Tensor:
    """z_k ~ N(0, t_max² I) for images of a shape (C, H, W): (B, K, C, H, W) float32 on the CPU, one generator each."""
    return standard_normal((num_latents, *shape), generators) * model.sigma_max


def standard_normal(shape: Sequence[int], generators: Sequence[Generator]) -> Tensor:
    """N(0, I), (B, *shape) float32 on the CPU, one generator per image."""
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


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
        """Refuse a model whose weights require gradients, which would be computed at every step and not used."""
        if isinstance(self.model, torch.nn.Module) and any(p.requires_grad for p in self.model.parameters()):
            raise ValueError("the consistency model must be frozen: call model.requires_grad_(False)")

    @property
    def refines(self) -> bool:
        """Whether candidates are denoised at the end."""
        return self.config.denoise_level > 0 and isinstance(self.model, HasDenoiser)

    def check(self, x: Tensor, generators: Sequence[Generator]) -> None:
        """Refuse images of another shape than the model's, and more or fewer generators than images (ValueError)."""
        check_shape(self.model, x)
        if len(generators) != len(x):
            raise ValueError(f"{len(x)} images need as many generators, not {len(generators)}")

    def draw(self, x: Tensor, generators: Sequence[Generator]) -> Draw:
        """The latents from which purification of x starts, or its start is computed, and the noise at its end.

        Returns:
            Both on x's device.

        Raises:
            ValueError: the images have another shape than the model's, or the number of generators is not B.
        """
        self.check(x, generators)
        latents = initial_latents(self.model, self.config.num_latents, x.shape[1:], generators).to(x)
        if not self.refines:
            return Draw(latents)
        return Draw(latents, standard_normal(latents.shape[1:], generators).to(x))

    def descent(self, x: Tensor, draw: Draw, labels: Tensor | None = None) -> Descent:
        """The objective for images x in [0, 1], (B, C, H, W), starting from the drawn latents or from the inverse.

        Raises:
            ValueError: labels, (B,), are missing, or the model takes none.
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

    def noises(self, x: Tensor, generators: Sequence[Generator]) -> Iterator[Tensor]:
        """The K draws of noise of denoising alone, ~ N(0, I), (B, C, H, W) each, one after the other to save memory.

        Raises:
            ValueError: as of :meth:`draw`.
        """
        self.check(x, generators)
        return (standard_normal(x.shape[1:], generators).to(x) for _ in range(self.config.num_latents))

    def denoised(
        self,
        x: Tensor,
        noises: Iterable[Tensor],
        on_step: Callable[[Step], None] | None = None,
        *,
        straight_through: bool = False,
    ) -> Tensor:
        """x̂_k = clip(D(y + t·n_k, t), −1, 1), the candidates of denoising alone; differentiable in x.

        Large images are denoised window by window (:mod:`cmap_cli.core.sizes`).

        Args:
            x: images in [0, 1], (B, C, H, W).
            noises: n_k, K of (B, C, H, W).
            on_step: called before each window of each draw.
            straight_through: whether the clip lets gradients through.

        Returns:
            (B, K, C, H, W) in [0, 1].
        """
        parts, keeps = windows(self.model, x.shape[-2], x.shape[-1]), torch.is_grad_enabled() and x.requires_grad
        samples = x.new_empty(len(x), self.config.num_latents, *x.shape[1:])
        steps = self.config.num_latents * len(parts)
        for k, noise in enumerate(noises):
            for index, window in enumerate(parts):
                if on_step is not None:
                    on_step(Step(k * len(parts) + index, steps, None))
                given = x[..., *window.given], noise[..., *window.given]
                if keeps and len(parts) > 1:  # a graph of all windows would not fit into memory
                    image = checkpoint(self._denoise, *given, straight_through, use_reentrant=False)
                else:
                    image = self._denoise(*given, straight_through)
                samples[:, k, ..., *window.used] = image[..., *window.inside]
        return samples

    def _denoise(self, x: Tensor, noise: Tensor, straight_through: bool) -> Tensor:
        """x̂ of one window and draw, in [0, 1]."""
        sigma = self.config.denoise_level
        if not isinstance(self.model, HasDenoiser):
            raise ValueError("the model has no denoiser")
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            image = denoise(self.model, to_model_range(x) + sigma * noise, sigma)
        return to_unit_range(clip(image, straight_through=straight_through))

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
            generators: one CPU generator per image, see :func:`image_generators`.
            on_step: called before each update or window; reading its values costs a device synchronisation.
            labels: the class of each image for a class-conditional model, (B,) int64 on the model's device.

        Raises:
            ValueError: the images have another shape than the model's, the number of generators is not B, or labels
                are missing or not wanted.
        """
        if self.config.method == "denoise":
            with torch.no_grad():
                samples = self.denoised(x, self.noises(x, generators), on_step)
                return Purification(samples, pixel_distance(to_model_range(samples), to_model_range(x)))
        descent = self.descent(x, self.draw(x, generators), labels)
        z = descent.run(on_step)
        with torch.no_grad():
            x_hat = descent.candidates(z)
            objective = descent.objective(x_hat, z)
            samples = descent.samples(x_hat)
        restoration = objective.pixel + self.config.perceptual_weight * objective.perceptual
        return Purification(samples, restoration, z, objective)
