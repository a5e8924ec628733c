"""Iterates of APGD (Croce & Hein 2020, arXiv 2003.01690): momentum, and steps that halve where the loss stagnates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from cmap_cli.attacks.pgd import is_better, steepest
from cmap_cli.attacks.threat import ThreatModel

MOMENTUM = 0.75
"""α: weight of the new step; 1 − α is the weight of the step before."""
RISING = 0.75
"""ρ: the step halves if a smaller share of the window's steps raised the loss."""


def halving_checkpoints(steps: int) -> tuple[int, ...]:
    """Iterations after which the step may halve: windows of 22 % of the steps, each 3 % shorter, at least 6 %."""
    places, window = [0.0], 0.22
    while places[-1] + window < 1:
        places.append(places[-1] + window)
        window = max(window - 0.03, 0.06)
    return tuple(sorted({math.ceil(round(place * steps, 6)) for place in places[1:]}))


@dataclass(slots=True)
class Climb:
    """The state of the search of each image; every tensor has one row per image that is still attacked.

    Attributes:
        threat: norm and radius.
        index: rows in the batch that was attacked, (B,).
        x: clean images in [0, 1], (B, C, H, W).
        y: classes, (B,).
        generators: one random generator per image.
        x_adv: current iterates, (B, C, H, W).
        previous: iterates of the iteration before, (B, C, H, W).
        size: step lengths, in units of [0, 1], (B,).
        best: best iterates: most draws predicted wrongly, then highest loss; (B, C, H, W).
        best_fooled: share of draws that are predicted wrongly at ``best``, (B,).
        best_loss: loss at ``best``, (B,).
        last_loss: loss at the iterate before, (B,).
        rises: number of steps since the last checkpoint that raised the loss, (B,).
        window_best: best loss at the last checkpoint, (B,).
        was_halved: whether the last checkpoint halved the step, (B,).
    """

    threat: ThreatModel
    index: Tensor
    x: Tensor
    y: Tensor
    generators: Sequence[Generator]
    x_adv: Tensor
    previous: Tensor
    size: Tensor
    best: Tensor
    best_fooled: Tensor
    best_loss: Tensor
    last_loss: Tensor
    rises: Tensor
    window_best: Tensor
    was_halved: Tensor

    @classmethod
    def start(cls, threat: ThreatModel, x: Tensor, y: Tensor, generators: Sequence[Generator]) -> Climb:
        """The state before the first step: a random image of each ball, and a step length of 2·eps."""
        x_adv = threat.random_start(x, generators) if len(x) else x
        never, index = torch.full((len(x),), -torch.inf, device=x.device), torch.arange(len(x), device=x.device)
        zeros, size = torch.zeros(len(x), device=x.device), torch.full((len(x),), 2 * threat.eps, device=x.device)
        return cls(threat, index, x, y, list(generators), x_adv, x_adv, size, x_adv, never, never, never, zeros, never,
                   zeros.bool())  # fmt: skip

    def remember(self, fooled: Tensor, loss: Tensor) -> None:
        """Replace the best iterates by the current ones where these are better.

        Args:
            fooled: share of draws that are predicted wrongly at the current iterates, (B,).
            loss: loss at the current iterates, (B,).
        """
        better = is_better(fooled, loss, self.best_fooled, self.best_loss)
        self.best = torch.where(better[:, None, None, None], self.x_adv, self.best)
        self.best_fooled = fooled.where(better, self.best_fooled)
        self.best_loss = loss.where(better, self.best_loss)
        self.rises = self.rises + (loss > self.last_loss)
        self.last_loss = loss

    def without(self, gone: Tensor) -> Climb:
        """The state without the rows where ``gone``, (B,) bool, is true."""
        kept = ~gone
        rows = {
            name: value[kept] for name in self.__dataclass_fields__ if isinstance(value := getattr(self, name), Tensor)
        }
        staying = [each for each, stays in zip(self.generators, kept.tolist(), strict=True) if stays]
        return Climb(threat=self.threat, generators=staying, **rows)

    def step(self, gradient: Tensor) -> None:
        """One step with momentum along the steepest direction, projected to the ball."""
        size = self.size[:, None, None, None]
        ahead = self.threat.project(self.x_adv + size * steepest(self.threat, gradient, self.x_adv), self.x)
        moved = self.x_adv + MOMENTUM * (ahead - self.x_adv) + (1 - MOMENTUM) * (self.x_adv - self.previous)
        self.previous, self.x_adv = self.x_adv, self.threat.project(moved, self.x)

    def halve(self, window: int) -> None:
        """At a checkpoint: where the loss stopped rising, halve the step and continue from the best iterate.

        Args:
            window: number of iterations since the last checkpoint.
        """
        few = self.rises < RISING * window
        stuck = ~self.was_halved & (self.best_loss <= self.window_best)
        halved = few | stuck
        place = halved[:, None, None, None]
        self.size = torch.where(halved, self.size / 2, self.size)
        self.x_adv = torch.where(place, self.best, self.x_adv)
        self.previous = torch.where(place, self.best, self.previous)
        self.rises, self.window_best, self.was_halved = torch.zeros_like(self.rises), self.best_loss, halved
