"""Models and classifiers whose answers are known in closed form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cmap_cli.models.networks.cifar_resnet import CifarResNet
from cmap_cli.models.preprocessing import PreparedClassifier
from cmap_cli.models.stored_classifier import CLASSIFIER_FILE, ClassifierDescription, save_classifier


@dataclass(frozen=True)
class IsotropicGaussian:
    """The consistency function of data N(mu, s² I): f(x, t) = mu + (x − mu)·√((s² + t_min²) / (s² + t²))."""

    mu: float = 0.0
    s: float = 0.4
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    image_shape: tuple[int, int, int] = (3, 8, 8)

    def gain(self, sigma: Tensor) -> Tensor:
        return ((self.s**2 + self.sigma_min**2) / (self.s**2 + sigma**2)).sqrt()

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mu + (x - self.mu) * self.gain(sigma)[:, None, None, None]

    def latent_of(self, image: Tensor) -> Tensor:
        """The latent that generates an image given in [-1, 1]."""
        return self.mu + (image - self.mu) / self.gain(torch.tensor(self.sigma_max))


class DenoisingGaussian(IsotropicGaussian):
    """The same, with its posterior mean mu + (x − mu)·s² / (s² + t²)."""

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        share = self.s**2 / (self.s**2 + sigma**2)
        return self.mu + (x - self.mu) * share[:, None, None, None]


@dataclass(frozen=True)
class ConditionalGaussian(IsotropicGaussian):
    """Two classes, whose means are ``mu`` − 0.3 and ``mu`` + 0.3."""

    num_classes: int = 2

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        mean = self.mu + 0.6 * labels.to(x)[:, None, None, None] - 0.3
        return mean + (x - mean) * self.gain(sigma)[:, None, None, None]


class WideBlur(DenoisingGaussian):
    """A mean over 11×11 pixels, times a pattern that repeats every ``stride`` pixels: any size, a known reach."""

    stride = 4
    receptive_radius = 5

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        assert height % self.stride == width % self.stride == 0
        blurred = nn.functional.avg_pool2d(x, 2 * self.receptive_radius + 1, 1, self.receptive_radius)
        places = torch.arange(height)[:, None] % self.stride + torch.arange(width) % self.stride
        return blurred * (1 + places.to(x) / 8)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoise(x, sigma) * self.gain(sigma)[:, None, None, None] + 0 * self.mu


class BrightnessClassifier(nn.Module):
    """Class 1 when the mean of an image is above one half, else class 0."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean((1, 2, 3)) - 0.5
        return torch.stack([-brightness, brightness], 1) * 20


def brightness_classifier() -> nn.Module:
    """A factory for ``--classifier toys:brightness_classifier``."""
    return BrightnessClassifier()


class QuadrantClassifier(nn.Module):
    """Four classes: which quarter of an image is brightest; linear, so that attacks have a closed form."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1) * 40


def quadrant_classifier() -> nn.Module:
    """A factory for ``--classifier tests.toys:quadrant_classifier``."""
    return QuadrantClassifier()


def talkative_classifier() -> nn.Module:
    """A factory that prints on stdout, through Python and past it."""
    print("loading weights")  # noqa: T201
    os.write(1, b"from a library in C\n")
    return BrightnessClassifier()


def write_base(folder: Path, side: int) -> Path:
    """A folder with a small classifier of random weights, as ``cmap train --kind classifier`` writes one."""
    folder.mkdir()
    torch.manual_seed(0)
    description = ClassifierDescription(
        architecture="cifar-resnet20",
        classes=10,
        names=tuple("abcdefghij"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        height=side,
        width=side,
    )
    prepared = PreparedClassifier(CifarResNet(20), description.size, description.mean, description.std)
    save_classifier(prepared, description, folder / CLASSIFIER_FILE)
    return folder
