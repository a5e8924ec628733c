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
"""Number of fresh draws that must all be wrong before an image is not attacked any more."""
SMALLEST = 0.8
"""Smallest side of an image that input diversity makes, as a share of the original side."""
L1_SHARE = 0.01
"""Share of the values (pixels × channels) that one L1 step changes (SLIDE, Tramèr & Boneh 2019, arXiv 1904.13000)."""


@dataclass(frozen=True, slots=True)
class PGD:
    """Steps along the gradient of the loss, each projected to the ball and to [0, 1].

    Each restart keeps its best iterate: the one with most wrong draws, then the one with the highest loss. This iterate
    and the last one are evaluated again with fresh draws, and the better one over all restarts is returned. So no
    iterate is chosen because of one wrong draw by chance. An image is broken if all draws of a gradient and then
    ``confirmations`` fresh draws are wrong: it leaves the batch, and no restart attacks it again.

    Attributes:
        threat: norm and radius.
        access: what the attacker knows of the attacked model.
        steps: number of steps per restart, each with one gradient.
        step: length of a step, as a share of eps; None for 2.5 / steps.
        restarts: number of restarts.
        random_start: whether a restart starts at a random image of the ball instead of the image itself.
        eot: calls of the model per gradient and per evaluation.
        loss: "ce", or "margin" for max_{i≠y} s_i − s_y, which no softmax can saturate.
        confirmations: number of fresh draws that must be wrong before an image leaves the batch; 0 to run all steps on
            every image. They are not made if they would take longer than the remaining steps (a gradient counts as two
            passes), nor for a randomised model whose random numbers are not separate for each image.
        momentum: μ of g ← μ·g + ∇ / mean |∇|, whose steepest direction is followed (Dong et al. 2018, arXiv
            1710.06081); 0 for the gradient itself.
        diversity: the probability that in a draw of a gradient the image is reduced to a random size and put at a
            random place on black (Xie et al. 2019, arXiv 1803.06978).
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
        """The number of steps, and the numbers of draws and restarts where these are above 1: "PGD-100+EOT20"."""
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
        """Run one restart, with ``later`` steps in the restarts after it; broken images are not changed any more."""
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
        """The result of the probe; with input diversity the images have another size in each draw."""
        if not self.diversity:
            return probe(x)
        return probe(x, lambda images: resized_at_random(images, generators, self.diversity))


@dataclass(frozen=True, slots=True)
class Climbed:
    """The result of a restart.

    Attributes:
        x_adv: the last iterates, (B, C, H, W); for a broken image the iterate that broke it.
        best: the best iterates by the draws of their iteration, (B, C, H, W).
        broken: whether all draws of an iteration and all fresh draws are wrong, (B,) bool.
    """

    x_adv: Tensor
    best: Tensor
    broken: Tensor


def start(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best images so far, with the loss and the share of fooled draws of none."""
    never = torch.full((len(x),), -torch.inf, device=x.device)
    return x.clone(), never, never.clone()


def resized_at_random(x: Tensor, generators: Sequence[Generator], chance: float) -> Tensor:
    """Reduce each image, with a given probability, to a random size from SMALLEST on, at a random place on black."""
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

    For L1 this would change one value; here it changes a share L1_SHARE of the values, of those that can still move
    within [0, 1].
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
    """Whether iterates have more wrong draws than the best so far, or as many with a higher loss; (B,) bool."""
    return (fooled > best_fooled) | ((fooled == best_fooled) & (loss > best_loss))


def fgsm(threat: ThreatModel, access: Access, eot: int = 1) -> PGD:
    """The fast gradient sign method (arXiv 1412.6572): one step of length eps from the image itself."""
    return PGD(threat, access, steps=1, step=1.0, random_start=False, eot=eot, confirmations=0)


def paper_pgd(threat: ThreatModel, access: Access) -> PGD:
    """PGD+EOT as in the evaluation of CMAP: 200 steps of eps/200 from the image itself, 20 draws per gradient.

    Such small steps reach the surface of the ball only if all have the same direction. The attack is therefore weaker
    than the default; use it only to reproduce the paper.
    """
    return PGD(threat, access, steps=200, step=1 / 200, random_start=False, eot=20, confirmations=0)


def build_pgd(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    if budget.paper:
        return paper_pgd(threat, access)
    eot = gradient_draws(budget, access)
    # what breaks a stand-in need not break the defence: no image leaves early there
    confirmations = 0 if access in ("transfer", "surrogate") else CONFIRMATIONS
    return PGD(threat, access, steps=budget.steps, restarts=budget.restarts, eot=eot, confirmations=confirmations)


def build_diverse(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`: momentum of 1, and diversity in half of the draws."""
    pgd = build_pgd(threat, access, replace(budget, paper=False), defenses)
    return replace(pgd, momentum=1.0, diversity=0.5)


def build_fgsm(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> PGD:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    return fgsm(threat, access, gradient_draws(budget, access))
