"""The two parts of randomised smoothing: Gaussian noise on an exact grid, and the classifier of noisy images.

Denoised smoothing (Salman et al. 2020, arXiv 2003.01908) with a diffusion or consistency model as the denoiser
(Carlini et al. 2022, arXiv 2206.10550; Consistency Purification, arXiv 2407.00623).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cmap_cli.choices import Denoiser
from cmap_cli.core.consistency import clip, to_model_range, to_unit_range
from cmap_cli.core.sizes import at_any_size
from cmap_cli.core.types import ConsistencyModel, HasDenoiser
from cmap_cli.errors import UsageError

GRID = 255 << 13
"""Steps of the grid of images and noise from 0 to 1; every 8-bit value is on it."""
ROUNDING = 0.5 / GRID
"""Largest change of a value by rounding to the grid."""


def noise_key(image: Tensor, sigma: float, seed: int) -> int:
    """The key of an image's noise: 128 bits from the image, the noise level and the seed.

    Args:
        image: (C, H, W) in [0, 1].
        sigma: standard deviation of the noise.
        seed: any integer.
    """
    content = image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    digest = hashlib.sha256(f"smoothing:{seed}:{sigma!r}:{tuple(image.shape)}:".encode() + content).digest()
    return int.from_bytes(digest[:16], "little")


def standard_noise(key: int, index: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Sample number ``index`` of N(0, I), counter-based: a sample does not depend on the samples before it."""
    return np.random.Generator(np.random.Philox(key=key, counter=index << 128)).standard_normal(tuple(shape))


def noisy_samples(image: Tensor, sigma: float, key: int, indices: Sequence[int]) -> Tensor:
    """(round(G·x) + round(G·sigma·n)) / G with n ~ N(0, I) and G = GRID, (S, C, H, W) float32 on the CPU.

    Both terms are integers below 2^53, so their sum is exact in double precision. It equals round(G·(x + sigma·n)) for
    every x on the grid. The sample is therefore a function of a real Gaussian around x, which Cohen's theorem requires.
    With ordinary floating-point sums this is not so, and certificates can be wrong (Voráček and Hein 2022,
    arXiv 2207.07209). The theorem then holds for all inputs on the grid, which includes all 8-bit images. Nothing is
    clipped.

    Args:
        image: x, (C, H, W) in [0, 1]; values that are not on the grid are rounded to it first.
        sigma: standard deviation of the noise, for images in [0, 1].
        key: key of the image's noise, :func:`noise_key`.
        indices: numbers of the samples.
    """
    centre = np.rint(image.detach().to("cpu", torch.float64).numpy() * GRID)
    drawn = np.empty((len(indices), *image.shape), dtype=np.float32)
    for row, index in enumerate(indices):
        drawn[row] = (centre + np.rint(standard_noise(key, index, image.shape) * (sigma * GRID))) / GRID
    return torch.from_numpy(drawn)


def choose_denoiser(model: ConsistencyModel | None, denoiser: Denoiser) -> Denoiser:
    """The denoiser; "auto" is the model's posterior mean if it has one, else its consistency function f.

    Raises:
        UsageError: "posterior-mean" was chosen, and the model has none.
    """
    if denoiser == "none" or model is None:
        return "none"
    if denoiser == "posterior-mean" and not isinstance(model, HasDenoiser):
        raise UsageError("the model has no posterior mean", "--denoiser consistency")
    if denoiser == "auto":
        return "posterior-mean" if isinstance(model, HasDenoiser) else "consistency"
    return denoiser


class NoisyClassifier(nn.Module):
    """h: noisy images -> logits, the classifier that is smoothed. It denoises once, clips to [0, 1] and classifies.

    It is a deterministic function of the noisy image. Noise of standard deviation sigma on [0, 1] has the noise level
    t = 2·sigma on the model's range [-1, 1].

    Args:
        model: the model that denoises; not used for "none", and may then be None.
        classifier: images in [0, 1] -> logits, frozen.
        denoiser: "posterior-mean", "consistency" (f(x, t)), or "none": the classifier gets the noisy image itself,
            unclipped.
        dtype: data type that both networks compute in.
    """

    def __init__(
        self,
        model: ConsistencyModel | None,
        classifier: nn.Module,
        denoiser: Denoiser = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self.denoiser: Denoiser = choose_denoiser(model, denoiser)
        self.dtype = dtype

    def denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Noisy images (N, C, H, W) and sigma (N,) -> images in [0, 1]; the clip is the identity for gradients."""
        if self.model is None or self.denoiser == "none":
            return noisy
        levels = (2 * sigma).clamp(self.model.sigma_min, self.model.sigma_max)
        x = to_model_range(noisy)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if self.denoiser == "posterior-mean":
                assert isinstance(self.model, HasDenoiser)
                posterior_mean = self.model.denoise
                images = at_any_size(self.model, lambda x: posterior_mean(x, levels), x)
            else:
                consistency = self.model
                images = at_any_size(self.model, lambda x: consistency(x, levels), x)
        return to_unit_range(clip(images.to(noisy.dtype), straight_through=images.requires_grad))

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Noisy images (N, C, H, W) and their sigma, (N,) -> logits (N, classes), float32."""
        images = self.denoise(noisy, sigma).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits: Tensor = self.classifier(images)
        return logits.float()


BLOCK_ROWS = {"cpu": 64, "mps": 256, "cuda": 1024}
BLOCK_PIXELS = 1024
"""Pixels per image that BLOCK_ROWS is for; blocks of larger images have fewer rows."""


def block_size(height: int, width: int, device: torch.device) -> int:
    """Rows per call of the networks; depends only on device and image size, 64 for 32×32 on a CPU."""
    rows = BLOCK_ROWS.get(device.type, 64)
    return max(1, min(rows, rows * BLOCK_PIXELS // (height * width)))


@torch.inference_mode()
def classify_blocks(h: NoisyClassifier, noisy: Tensor, sigma: Tensor, device: torch.device) -> list[int]:
    """The classes of noisy images, computed in blocks of one shape.

    Kernels round differently for different shapes, and in bfloat16 the last digits can change a class. With blocks of
    one shape the class of an image does not depend on the other images; the last block is filled up with zeros.

    Args:
        h: the classifier of noisy images.
        noisy: noisy images, (N, C, H, W).
        sigma: standard deviation of their noise, (N,).
        device: where to compute.
    """
    rows = block_size(noisy.shape[2], noisy.shape[3], device)
    classes: list[int] = []
    for part, levels in zip(torch.split(noisy, rows), torch.split(sigma, rows), strict=True):
        missing = rows - len(part)
        filled = torch.cat([part, part.new_zeros((missing, *part.shape[1:]))]) if missing else part
        filled_levels = torch.cat([levels, levels.new_full((missing,), float(levels[0]))]) if missing else levels
        logits = h(filled.to(device), filled_levels.to(device))
        classes += logits[: len(part)].argmax(1).tolist()
    return classes
