"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) with expectation over the defence's randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from cmap_cli.attacks.gradients import GradientProbe, LossName
from cmap_cli.attacks.randomness import seeded
from cmap_cli.attacks.table import Budget, gradient_draws
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.choices import Access

L1_SHARE = 0.01
"""Of the pixels and channels, the share that one L1 step moves (SLIDE, Tramèr & Boneh 2019, arXiv 1904.13000)."""


@dataclass(frozen=True, slots=True)
class PGD:
    """Steps along the gradient of the loss, each projected to the ball and to [0, 1].

    Of all iterates of a restart the one that fools most draws, then the one of highest loss, is remembered; it and
    the last one are evaluated again with fresh draws, and the better of them over all restarts is returned. So no
    image is chosen for one lucky draw.

    Attributes:
        threat: norm and radius.
        access: what is known of the model that it is run on.
        steps: gradients of one restart.
        step: the length of one, as a share of eps; None for 2.5 / steps.
        restarts: how often it starts.
        random_start: whether a restart starts at a random image of the ball instead of the image itself.
        eot: calls of the model for each gradient and each evaluation.
        loss: "ce", or "margin" for max_{i≠y} s_i − s_y, which no softmax can saturate.
    """

    threat: ThreatModel
    access: Access
    steps: int = 100
    step: float | None = None
    restarts: int = 1
    random_start: bool = True
    eot: int = 1
    loss: LossName = "ce"

    @property
    def name(self) -> str:
        """PGD-steps, with EOT where there is more than one draw and the restarts where there is more than one."""
        if self.steps == 1 and self.step == 1 and not self.random_start:
            return "FGSM"
        eot = f"+EOT{self.eot}" if self.eot > 1 else ""
        restarts = f"×{self.restarts}" if self.restarts > 1 else ""
        return f"PGD-{self.steps}{eot}{restarts}"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once, see :class:`~cmap_cli.attacks.types.Attack`."""
        with seeded(model, x, seed) as generators:
            probe = GradientProbe(model, y, self.loss, self.eot)
            best = x.clone()
            best_loss = best_fooled = torch.full((len(x),), -torch.inf, device=x.device)
            for _ in range(self.restarts):
                for candidate in self._climb(probe, x, generators):
                    loss, fooled = probe.evaluate(candidate)
                    better = is_better(fooled, loss, best_fooled, best_loss)
                    best = torch.where(better[:, None, None, None], candidate, best)
                    best_loss, best_fooled = loss.where(better, best_loss), fooled.where(better, best_fooled)
            return AttackResult(best, best_fooled > 0.5, probe.diagnostics(x))

    def _climb(self, probe: GradientProbe, x: Tensor, generators: Sequence[Generator]) -> tuple[Tensor, Tensor]:
        """One restart: the best iterate as its own draws saw it, and the last."""
        size = self.threat.eps * (2.5 / self.steps if self.step is None else self.step)
        x_adv = self.threat.random_start(x, generators) if self.random_start else x
        best = x_adv
        best_loss = best_fooled = torch.full((len(x),), -torch.inf, device=x.device)
        for _ in range(self.steps):
            gradient, loss, fooled = probe(x_adv)
            better = is_better(fooled, loss, best_fooled, best_loss)
            best = torch.where(better[:, None, None, None], x_adv, best)
            best_loss, best_fooled = loss.where(better, best_loss), fooled.where(better, best_fooled)
            x_adv = self.threat.project(x_adv + size * steepest(self.threat, gradient, x_adv), x)
        return best, x_adv


def steepest(threat: ThreatModel, gradient: Tensor, x: Tensor) -> Tensor:
    """The step of length 1 in the norm along which the loss rises most, (B, C, H, W); 0 where the gradient is.

    For L1 that would be one pixel; here it is L1_SHARE of them, of those that [0, 1] lets move.
    """
    if threat.norm == "Linf":
        return gradient.sign()
    flat = gradient.flatten(1)
    if threat.norm == "L1":
        movable = torch.where(gradient > 0, x < 1, x > 0).flatten(1)
        count = max(1, round(L1_SHARE * flat.shape[1]))
        largest = (flat.abs() * movable).topk(count, dim=1)
        signs = flat.gather(1, largest.indices).sign() * (largest.values > 0)
        flat = torch.zeros_like(flat).scatter(1, largest.indices, signs)
    order = 1.0 if threat.norm == "L1" else 2.0
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # squares may underflow
    length = torch.linalg.vector_norm(flat, order, dim=1, keepdim=True)
    direction: Tensor = flat / length.clamp(min=1e-12)
    return direction.reshape(gradient.shape)


def is_better(fooled: Tensor, loss: Tensor, best_fooled: Tensor, best_loss: Tensor) -> Tensor:
    """Whether an image fools more draws than the best so far, or as many with a higher loss; (B,) bool each."""
    return (fooled > best_fooled) | ((fooled == best_fooled) & (loss > best_loss))


def fgsm(threat: ThreatModel, access: Access, eot: int = 1) -> PGD:
    """The fast gradient sign method (arXiv 1412.6572): one step of length eps from the image itself."""
    return PGD(threat, access, steps=1, step=1.0, random_start=False, eot=eot)


def paper_pgd(threat: ThreatModel, access: Access) -> PGD:
    """PGD+EOT as in the evaluation of CMAP: 200 steps of eps/200 from the image itself, 20 draws a gradient.

    Steps so small reach the ball's surface only if all point one way: weaker than the default, to reproduce only.
    """
    return PGD(threat, access, steps=200, step=1 / 200, random_start=False, eot=20)


def build_pgd(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    if budget.paper:
        return paper_pgd(threat, access)
    eot = gradient_draws(budget, access)
    return PGD(threat, access, steps=budget.steps, restarts=budget.restarts, eot=eot)


def build_fgsm(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    return fgsm(threat, access, gradient_draws(budget, access))
