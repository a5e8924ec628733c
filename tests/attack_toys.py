"""Data and classifiers on which the outcome of an attack is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmap_cli.attacks import autoattack
from cmap_cli.attacks.types import Attack

SHAPE = (3, 8, 8)


def templates(classes: int) -> Tensor:
    """One orthonormal direction of image space for each class, (classes, 192)."""
    return torch.linalg.qr(torch.randn(192, classes, generator=torch.Generator().manual_seed(1)))[0].T


def images(count: int, classes: int = 4, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Grey plus ``size`` times the direction of the class plus a little noise, and the classes."""
    generator = torch.Generator().manual_seed(2)
    y = torch.arange(count) % classes
    noise = 0.02 * torch.randn((count, 192), generator=generator)
    return (0.5 + size * templates(classes)[y] + noise).clamp(0, 1).reshape(count, *SHAPE), y


class LinearClassifier(nn.Module):
    """Scores are the coordinates along the directions, times ``scale``."""

    def __init__(self, classes: int = 4, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * templates(classes), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


class ConvClassifier(nn.Module):
    """A small network with fixed random weights: its own predictions are the labels to be attacked."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(288, classes))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 5


class Noisy(nn.Module):
    """A classifier behind fresh Gaussian noise of its own generator."""

    def __init__(self, classifier: nn.Module, std: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.std = std
        self.generator = torch.Generator().manual_seed(0)

    def reseed(self, seeds: Sequence[int]) -> None:
        self.generator.manual_seed(seeds[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x + self.std * torch.randn(x.shape, generator=self.generator))


@contextmanager
def short_autoattack() -> Iterator[None]:
    """APGD and FAB of AutoAttack with 5 iterations and one start in place of 100 and 5, for tests of what is around."""
    build = autoattack.build_autoattack

    def short(*arguments: Any) -> Attack:
        return replace(build(*arguments), n_iter=5, n_restarts=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoattack, "build_autoattack", short)
        yield
