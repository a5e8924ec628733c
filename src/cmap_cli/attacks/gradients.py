"""Losses that attacks maximise, and their gradients with diagnostics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmap_cli.attacks.randomness import attending
from cmap_cli.attacks.types import GradientDiagnostics

LossName = Literal["ce", "margin", "dlr"]


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """max_{i≠y} s_i − s_y: (B, classes), (B,) -> (B,); above 0 exactly where the prediction is wrong, except ties."""
    true = F.one_hot(y, scores.shape[1]).bool()
    return scores.masked_fill(true, -torch.inf).amax(1) - scores.gather(1, y[:, None]).squeeze(1)


def cross_entropy(scores: Tensor, y: Tensor) -> Tensor:
    """−log softmax(s)_y: (B, classes), (B,) -> (B,)."""
    return F.cross_entropy(scores, y, reduction="none")


def difference_of_logits_ratio(scores: Tensor, y: Tensor) -> Tensor:
    """The margin over the difference of the largest and the third largest score: (B, classes), (B,) -> (B,).

    Croce & Hein 2020 (arXiv 2003.01690): it does not depend on scale and shift of the scores. With fewer than three
    classes it is the margin.
    """
    if scores.shape[1] < 3:
        return margin(scores, y)
    highest = scores.topk(3, dim=1).values
    return margin(scores, y) / (highest[:, 0] - highest[:, 2]).clamp(min=1e-12)


LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": cross_entropy,
    "margin": margin,
    "dlr": difference_of_logits_ratio,
}


class GradientProbe:
    """Gradients of the mean loss over draws of a model, and counts of zero and non-finite entries.

    Args:
        model: images (B, C, H, W) in [0, 1] -> scores (B, classes).
        y: labels, (B,).
        loss: "ce", "margin" or "dlr".
        eot: calls of the model per gradient.

    Attributes:
        rows: indices of the images that are still attacked, see :meth:`select`.
    """

    def __init__(self, model: nn.Module, y: Tensor, loss: LossName, eot: int) -> None:
        self.model = model
        self.labels = self.y = y
        self.rows = torch.arange(len(y), device=y.device)
        self.loss = LOSSES[loss]
        self.eot = eot
        self.entries = self.zeros = self.non_finite = 0

    def select(self, rows: Tensor) -> None:
        """Attack only the images with these indices from now on."""
        self.rows, self.y = rows, self.labels[rows]

    def __call__(self, x: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient at x, with the mean loss and the share of wrong predictions of its draws.

        Args:
            x: images in [0, 1], (B, C, H, W).
            transform: applied to the images before the model, with new random numbers in each draw; None for none.

        Returns:
            The gradient (B, C, H, W), with entries that are not finite replaced by 0; the mean loss, (B,); the share
            of draws that are predicted wrongly, (B,).
        """
        total = torch.zeros_like(x)
        loss = fooled = torch.zeros(len(x), device=x.device)
        for _ in range(self.eot):
            gradient, drawn_loss, wrong = self.draw(x, transform)
            total += gradient
            loss, fooled = loss + drawn_loss, fooled + wrong
        return total / self.eot, loss / self.eot, fooled / self.eot

    def draw(self, x: Tensor, transform: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (B, C, H, W), loss (B,), and whether the prediction is wrong (B,), of one call of the model."""
        x = x.detach().requires_grad_()
        with torch.enable_grad(), attending(self.model, self.rows):
            scores = self.model(x if transform is None else transform(x))
            losses = self.loss(scores, self.y)
            (gradient,) = torch.autograd.grad(losses.sum(), x)
        finite = gradient.isfinite()
        self.entries += gradient.numel()
        self.zeros += int((gradient == 0).sum())
        self.non_finite += int((~finite).sum())
        wrong = (scores.argmax(1) != self.y).float()
        return gradient.where(finite, 0), losses.detach(), wrong

    def evaluate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and share of wrong predictions, (B,) each, over fresh draws and without gradients."""
        with torch.no_grad(), attending(self.model, self.rows):
            draws = [self.model(x) for _ in range(self.eot)]
        loss = torch.stack([self.loss(scores, self.y) for scores in draws]).mean(0)
        return loss, torch.stack([scores.argmax(1) != self.y for scores in draws]).float().mean(0)

    def confirm(self, x: Tensor, tried: Tensor, times: int) -> tuple[Tensor, Tensor]:
        """Test if images are predicted wrongly in ``times`` fresh draws; an image's first right draw ends its test.

        Args:
            x: images in [0, 1], (B, C, H, W).
            tried: which of them are tested, (B,) bool.
            times: number of draws.

        Returns:
            Whether all draws are wrong, (B,) bool; the number of draws of each image, (B,).
        """
        wrong, took = tried.clone(), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for _ in range(times):
            places = torch.nonzero(wrong).flatten()
            if not len(places):
                break
            with torch.no_grad(), attending(self.model, self.rows[places]):
                wrong[places] = self.model(x[places]).argmax(1) != self.y[places]
            took[places] += 1
        return wrong, took

    def diagnostics(self, x: Tensor, *, compare: bool) -> GradientDiagnostics:
        """The diagnostics of all gradients so far, with the cosine of two draws at the clean images x if wanted."""
        if not compare:
            return GradientDiagnostics(self.zeros / self.entries, self.non_finite, None)
        self.select(torch.arange(len(x), device=x.device))
        first, second = (self.draw(x)[0].flatten(1) for _ in range(2))
        there = first.any(1) & second.any(1)
        # largest entry 1 first: squares of small gradients underflow
        first, second = (g[there] / g[there].abs().amax(1, keepdim=True) for g in (first, second))
        cosine = float(F.cosine_similarity(first, second).mean()) if there.any() else 0.0
        return GradientDiagnostics(self.zeros / self.entries, self.non_finite, cosine)
