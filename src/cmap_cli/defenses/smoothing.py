"""Randomised smoothing's two halves: Gaussian noise on an exact grid, and the classifier of noisy images.

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
"""Steps of the noise's grid from 0 to 1; every 8-bit value is on it."""
ROUNDING = 0.5 / GRID
"""How far an entry that is not on the grid is moved, at most."""


def noise_key(image: Tensor, sigma: float, seed: int) -> int:
    """128 bits from the image, the noise level and the seed: the key of the image's noise.

    Args:
        image: (C, H, W) in [0, 1].
        sigma: of the noise.
        seed: any integer.
    """
    content = image.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()
    digest = hashlib.sha256(f"smoothing:{seed}:{sigma!r}:{tuple(image.shape)}:".encode() + content).digest()
    return int.from_bytes(digest[:16], "little")


def standard_noise(key: int, index: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Sample number ``index`` of N(0, I): counter-based, so that no sample depends on those drawn before it."""
    return np.random.Generator(np.random.Philox(key=key, counter=index << 128)).standard_normal(tuple(shape))


def noisy_samples(image: Tensor, sigma: float, key: int, indices: Sequence[int]) -> Tensor:
    """(round(G·x) + round(G·sigma·n)) / G with n ~ N(0, I) and G = GRID, (S, C, H, W) float32 on the CPU.

    Both terms are integers below 2^53 and their sum is exact, in double precision. It equals round(G·(x + sigma·n)) for
    every x on the grid: what follows sees a function of a real Gaussian around x, as Cohen's theorem asks for. With
    ordinary floating-point sums that is not so, and certificates can be wrong (Voráček and Hein 2022,
    arXiv 2207.07209). The theorem then holds for all inputs on the grid, all 8-bit images among them. Nothing is
    clipped.

    Args:
        image: x, (C, H, W) in [0, 1]; entries that are not on the grid are rounded to it first.
        sigma: standard deviation.
        key: of the image, :func:`noise_key`.
        indices: which samples.
    """
    centre = np.rint(image.detach().to("cpu", torch.float64).numpy() * GRID)
    drawn = np.empty((len(indices), *image.shape), dtype=np.float32)
    for row, index in enumerate(indices):
        drawn[row] = (centre + np.rint(standard_noise(key, index, image.shape) * (sigma * GRID))) / GRID
    return torch.from_numpy(drawn)


def choose_denoiser(model: ConsistencyModel | None, denoiser: Denoiser) -> Denoiser:
    """What "auto" means for a model: its posterior mean if it has one, else f.

    Raises:
        UsageError: the model has no posterior mean, and it was asked for.
    """
    if denoiser == "none" or model is None:
        return "none"
    if denoiser == "posterior-mean" and not isinstance(model, HasDenoiser):
        raise UsageError("the model has no posterior mean", "--denoiser consistency")
    if denoiser == "auto":
        return "posterior-mean" if isinstance(model, HasDenoiser) else "consistency"
    return denoiser


class NoisyClassifier(nn.Module):
    """h: noisy images -> logits, the classifier that is smoothed. Denoises once, clips to [0, 1], classifies.

    A deterministic function of the noisy image alone. Noise of standard deviation sigma on [0, 1] is the noise level
    t = 2·sigma on the model's [-1, 1].

    Args:
        model: whose estimate is used; None or unused for "none".
        classifier: images in [0, 1] -> logits, frozen.
        denoiser: "posterior-mean", "consistency" (f(x, t)), or "none": the classifier gets the noisy image itself,
            unclipped.
        dtype: what both networks compute in.
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
        """Noisy images (N, C, H, W) and sigma (N,) -> images in [0, 1]; the clip lets gradients pass."""
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
"""Pixels of the images that BLOCK_ROWS is for; of larger ones there are fewer in a block."""


def block_size(height: int, width: int, device: torch.device) -> int:
    """Rows of every call of the networks: a constant of the device and the image size, 64 for 32×32 on a CPU."""
    rows = BLOCK_ROWS.get(device.type, 64)
    return max(1, min(rows, rows * BLOCK_PIXELS // (height * width)))


@torch.inference_mode()
def classify_blocks(h: NoisyClassifier, noisy: Tensor, sigma: Tensor, device: torch.device) -> list[int]:
    """The classes of noisy images, computed in blocks of one shape.

    Kernels round differently for different shapes, and in bfloat16 the last digits can decide. With one shape an
    image's class does not depend on what is computed beside it; the last block is filled up with zeros.

    Args:
        h: the classifier of noisy images.
        noisy: (N, C, H, W).
        sigma: (N,).
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
