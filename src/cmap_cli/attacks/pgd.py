"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) with expectation over the defence's randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cmap_cli.attacks.gradients import GradientProbe, LossName
from cmap_cli.attacks.randomness import can_leave, seeded
from cmap_cli.attacks.table import Budget, gradient_draws
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.choices import Access

CONFIRMATIONS = 10
"""Fresh draws that have to be wrong before an image leaves the batch."""
SMALLEST = 0.8
"""Share of the sides that the smallest image of input diversity has."""
L1_SHARE = 0.01
"""Of the pixels and channels, the share that one L1 step moves (SLIDE, Tramèr & Boneh 2019, arXiv 1904.13000)."""


@dataclass(frozen=True, slots=True)
class PGD:
    """Steps along the gradient of the loss, each projected to the ball and to [0, 1].

    Of all iterates of a restart the one that fools most draws, then the one of highest loss, is remembered; it and
    the last one are evaluated again with fresh draws, and the better of them over all restarts is returned. So no
    image is chosen for one lucky draw. An image that all draws of a gradient and then ``confirmations`` fresh ones
    have wrong is broken for good: it leaves the batch, and no restart attacks it again.

    Attributes:
        threat: norm and radius.
        access: what is known of the model that it is run on.
        steps: gradients of one restart.
        step: the length of one, as a share of eps; None for 2.5 / steps.
        restarts: how often it starts.
        random_start: whether a restart starts at a random image of the ball instead of the image itself.
        eot: calls of the model for each gradient and each evaluation.
        loss: "ce", or "margin" for max_{i≠y} s_i − s_y, which no softmax can saturate.
        confirmations: fresh draws that have to be wrong before an image leaves; 0 for all steps on every image. They
            are not made where they would take longer than the steps that are left, a gradient counted as two passes,
            nor for a randomised model that does not keep the randomness of images apart.
        momentum: μ of g ← μ·g + ∇ / mean |∇|, whose steepest direction is followed (Dong et al. 2018, arXiv
            1710.06081); 0 for the gradient itself.
        diversity: the chance that a draw of a gradient sees the image reduced to a random size and placed at random
            on black (Xie et al. 2019, arXiv 1803.06978).
        compares: whether two draws of the gradient at the clean images are compared.
    """

    threat: ThreatModel
    access: Access
    steps: int = 100
    step: float | None = None
    restarts: int = 1
    random_start: bool = True
    eot: int = 1
    loss: LossName = "ce"
    confirmations: int = CONFIRMATIONS
    momentum: float = 0.0
    diversity: float = 0.0
    compares: bool = True

    @property
    def name(self) -> str:
        """PGD-steps, with EOT where there is more than one draw and the restarts where there is more than one."""
        if self.steps == 1 and self.step == 1 and not self.random_start:
            return "FGSM"
        eot = f"+EOT{self.eot}" if self.eot > 1 else ""
        restarts = f"×{self.restarts}" if self.restarts > 1 else ""
        kind = f"{'M' if self.momentum else ''}{'DI-' if self.diversity else ''}PGD"
        return f"{kind}-{self.steps}{eot}{restarts}"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once, see :class:`~cmap_cli.attacks.types.Attack`."""
        with seeded(model, x, seed) as generators:
            probe = GradientProbe(model, y, self.loss, self.eot)
            best, best_loss, best_fooled = start(x)
            left = probe.rows
            for restart in range(self.restarts):
                probe.select(left)
                later = self.steps * (self.restarts - restart - 1)
                climb = self._climb(probe, x[left], [generators[row] for row in left.tolist()], later)
                done = left[climb.broken]
                best[done], best_fooled[done] = climb.x_adv[climb.broken], 1.0
                left, stays = left[~climb.broken], ~climb.broken
                probe.select(left)
                for candidate in (climb.best[stays], climb.x_adv[stays]) if len(left) else ():
                    loss, fooled = probe.evaluate(candidate)
                    better = is_better(fooled, loss, best_fooled[left], best_loss[left])
                    rows = left[better]
                    best[rows], best_loss[rows], best_fooled[rows] = candidate[better], loss[better], fooled[better]
            return AttackResult(best, best_fooled > 0.5, probe.diagnostics(x, compare=self.compares))

    def without_comparison(self) -> PGD:
        """See :class:`~cmap_cli.attacks.types.ComparesDraws`."""
        return replace(self, compares=False)

    def _climb(self, probe: GradientProbe, x: Tensor, generators: Sequence[Generator], later: int) -> Climbed:
        """One restart, with ``later`` steps in those after it; an image that is broken for good stays as it is."""
        size = self.threat.eps * (2.5 / self.steps if self.step is None else self.step)
        x_adv = self.threat.random_start(x, generators) if self.random_start and len(x) else x.clone()
        best, best_loss, best_fooled = start(x_adv)
        broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        tested, confirms = torch.zeros(len(x), dtype=torch.int64, device=x.device), can_leave(probe.model)
        velocity = torch.zeros_like(x)
        active, rows = torch.arange(len(x), device=x.device), probe.rows
        for iteration in range(self.steps):
            if not len(active):
                break
            gradient, loss, fooled = self._gradient(probe, x_adv[active], [generators[row] for row in active.tolist()])
            if self.momentum:
                scaled = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
                velocity[active] = gradient = self.momentum * velocity[active] + scaled
            better = is_better(fooled, loss, best_fooled[active], best_loss[active])
            places = active[better]
            best[places], best_loss[places], best_fooled[places] = x_adv[places], loss[better], fooled[better]
            spared = self.eot * (self.steps - iteration - 1 + later)
            if self.confirmations and confirms and 2 * spared >= self.confirmations:
                # images that are wrong now and then take no more draws for tests than for gradients
                tried = (fooled == 1) & (tested[active] <= iteration * self.eot)
                gone, took = probe.confirm(x_adv[active], tried, self.confirmations)
                tested[active] += took
                broken[active[gone]] = True
                active, gradient = active[~gone], gradient[~gone]
                probe.select(rows[active])
            ahead = x_adv[active] + size * steepest(self.threat, gradient, x_adv[active])
            x_adv[active] = self.threat.project(ahead, x[active])
        return Climbed(x_adv, best, broken)

    def _gradient(
        self, probe: GradientProbe, x: Tensor, generators: Sequence[Generator]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The probe's answer; with input diversity each draw sees images of another size."""
        if not self.diversity:
            return probe(x)
        return probe(x, lambda images: resized_at_random(images, generators, self.diversity))


@dataclass(frozen=True, slots=True)
class Climbed:
    """Where a restart has led.

    Attributes:
        x_adv: the last iterates, (B, C, H, W), where images are broken those that broke them.
        best: the best iterates as their own draws saw them.
        broken: for good: wrong in all draws of an iteration and in all fresh ones, (B,) bool.
    """

    x_adv: Tensor
    best: Tensor
    broken: Tensor


def start(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best images so far, with the loss and the share of fooled draws of none."""
    never = torch.full((len(x),), -torch.inf, device=x.device)
    return x.clone(), never, never.clone()


def resized_at_random(x: Tensor, generators: Sequence[Generator], chance: float) -> Tensor:
    """Each image with this chance reduced to SMALLEST or more of its sides, at a random place on black."""
    images = []
    for image, generator in zip(x, generators, strict=True):
        chosen, size, top, left = torch.rand(4, generator=generator).tolist()
        if chosen >= chance:
            images.append(image)
            continue
        height, width = (round(side * (SMALLEST + (1 - SMALLEST) * size)) for side in image.shape[1:])
        small = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)
        above, before = (
            int(part * (whole - own + 1))
            for part, whole, own in ((top, image.shape[1], height), (left, image.shape[2], width))
        )
        beyond = image.shape[2] - width - before, image.shape[1] - height - above
        images.append(F.pad(small, (before, beyond[0], above, beyond[1]))[0])
    return torch.stack(images)


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
    return PGD(threat, access, steps=1, step=1.0, random_start=False, eot=eot, confirmations=0)


def paper_pgd(threat: ThreatModel, access: Access) -> PGD:
    """PGD+EOT as in the evaluation of CMAP: 200 steps of eps/200 from the image itself, 20 draws a gradient.

    Steps so small reach the ball's surface only if all point one way: weaker than the default, to reproduce only.
    """
    return PGD(threat, access, steps=200, step=1 / 200, random_start=False, eot=20, confirmations=0)


def build_pgd(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    if budget.paper:
        return paper_pgd(threat, access)
    eot, confirmations = gradient_draws(budget, access), 1 if access == "transfer" else CONFIRMATIONS
    return PGD(threat, access, steps=budget.steps, restarts=budget.restarts, eot=eot, confirmations=confirmations)


def build_diverse(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`: momentum of 1, and diversity in half of the draws."""
    pgd = build_pgd(threat, access, replace(budget, paper=False), defenses)
    return replace(pgd, momentum=1.0, diversity=0.5)


def build_fgsm(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    return fgsm(threat, access, gradient_draws(budget, access))
