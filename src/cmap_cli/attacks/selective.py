"""Selective attack on randomised purification, after DiffHammer (Wang et al., NeurIPS 2024, arXiv 2410.23091).

The gradients of single draws of a purification have different directions, and a step along their mean may be effective
for no draw. The attack evaluates all N draws without gradients through the purification, computes the classifier's
gradient at each purified image, and weighs the draws by how far these gradients agree. The weighted gradient is then
propagated back through the purification of one representative draw. This takes N forward passes and one backward pass;
a mean over N draws takes N of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from cmap_cli.attacks.climb import Climb, halving_checkpoints
from cmap_cli.attacks.gradients import LOSSES, LossName
from cmap_cli.attacks.pgd import is_better
from cmap_cli.attacks.randomness import seeded
from cmap_cli.attacks.table import Budget, selective_draws
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult, GradientDiagnostics
from cmap_cli.choices import Access
from cmap_cli.core.purifier import image_generators
from cmap_cli.defenses.base import HasCandidates
from cmap_cli.errors import UsageError

SHARPNESS = 4.0
"""How fast the weight of a draw falls with its angle to the shared direction: by e⁴ from parallel to orthogonal."""
ROUNDS = 3
"""Number of alternations between weighing draws and computing the shared direction."""


def shared_weights(gradients: Tensor) -> Tensor:
    """Weights of draws by how far their gradients agree, from equal weights by expectation and maximisation.

    The shared direction is the weighted mean of the unit gradients (maximisation); a draw's weight is the softmax over
    draws of SHARPNESS times its cosine with that direction (expectation).

    Args:
        gradients: one per draw and image, (N, B, ...).

    Returns:
        (N, B), summing to 1 over draws.
    """
    flat = gradients.flatten(2)
    unit = F.normalize(flat / flat.abs().amax(2, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny), dim=2)
    weights = torch.full(flat.shape[:2], 1 / len(flat), device=flat.device, dtype=flat.dtype)
    for _ in range(ROUNDS):
        shared = F.normalize((weights[:, :, None] * unit).sum(0), dim=1)
        weights = (SHARPNESS * (unit * shared).sum(2)).softmax(0)
    return weights


@dataclass(frozen=True, slots=True)
class Draws:
    """The results of N draws of a defence at each of B images.

    Attributes:
        loss: mean loss over draws, (B,).
        fooled: share of draws that are predicted wrongly, (B,).
        seeds: seed of the representative draw of each image.
        cotangent: the weighted gradient that is propagated back through that draw, (B, K, C, H, W); None if no gradient
            is needed.
    """

    loss: Tensor
    fooled: Tensor
    seeds: tuple[int, ...]
    cotangent: Tensor | None

    def without(self, gone: Tensor) -> Draws:
        """The draws without the rows where ``gone``, (B,) bool, is true."""
        seeds = tuple(seed for seed, left in zip(self.seeds, gone.tolist(), strict=True) if not left)
        cotangent = None if self.cotangent is None else self.cotangent[~gone]
        return Draws(self.loss[~gone], self.fooled[~gone], seeds, cotangent)


@dataclass(slots=True)
class Defects:
    """Counts of zero and non-finite entries of the gradients so far."""

    entries: int = 0
    zeros: int = 0
    non_finite: int = 0


@dataclass(slots=True)
class Probe:
    """Draws of a defence, and gradients through one of them.

    Attributes:
        model: the defence.
        loss: "ce", "margin" or "dlr".
        count: number of draws N.
        defects: counts over all gradients.
    """

    model: HasCandidates
    loss: LossName
    count: int
    defects: Defects = field(default_factory=Defects)

    def draw(self, x: Tensor, y: Tensor, generators: Sequence[Generator], *, gradients: bool = True) -> Draws:
        """N draws at images (B, C, H, W), each image with fresh seeds from its own generator."""
        seeds = [torch.randint(1 << 62, (self.count,), generator=each).tolist() for each in generators]
        losses, wrong, pulled = [], [], []
        for number in range(self.count):
            with torch.no_grad():
                samples = self.model.candidates(x, [each[number] for each in seeds])
            with torch.set_grad_enabled(gradients):
                samples.requires_grad_(gradients)
                scores = self.model.vote_scores(samples)
                loss = LOSSES[self.loss](scores, y)
                if gradients:
                    pulled.append(torch.autograd.grad(loss.sum(), samples)[0])
            self.model.passes.forward += len(x)
            losses.append(loss.detach())
            wrong.append((scores.argmax(1) != y).float())
        mean, fooled = torch.stack(losses).mean(0), torch.stack(wrong).mean(0)
        if not gradients:
            return Draws(mean, fooled, (), None)
        own = torch.stack(pulled)
        seen = own.sum(2)
        weights = shared_weights(seen)
        chosen, rows = weights.argmax(0), torch.arange(len(x), device=x.device)
        shared = (weights[:, :, None, None, None] * seen).sum(0)
        grafted = own[chosen, rows] + ((shared - seen[chosen, rows]) / own.shape[2])[:, None]
        picked = tuple(each[place] for each, place in zip(seeds, chosen.tolist(), strict=True))
        return Draws(mean, fooled, picked, grafted)

    def pull_back(self, x: Tensor, draws: Draws) -> Tensor:
        """The gradient at x through the representative draw, with entries that are not finite replaced by 0."""
        if not len(x):
            return torch.zeros_like(x)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            samples = self.model.candidates(x, draws.seeds)
            (gradient,) = torch.autograd.grad(samples, x, draws.cotangent)
        self.model.passes.forward += len(x)
        self.model.passes.backward += len(x)
        finite = gradient.isfinite()
        self.defects.entries += gradient.numel()
        self.defects.zeros += int((gradient == 0).sum())
        self.defects.non_finite += int((~finite).sum())
        return gradient.where(finite, 0)

    def confirm(self, x: Tensor, y: Tensor, generators: Sequence[Generator], tried: Tensor) -> Tensor:
        """Whether N fresh draws are wrong, (B,) bool, for the tried images; the first right draw ends a test."""
        wrong = tried.clone()
        for _ in range(self.count):
            places = torch.nonzero(wrong).flatten()
            if not len(places):
                break
            seeds = [int(torch.randint(1 << 62, (), generator=generators[row])) for row in places.tolist()]
            with torch.no_grad():
                scores = self.model.vote_scores(self.model.candidates(x[places], seeds))
            self.model.passes.forward += len(places)
            wrong[places] = scores.argmax(1) != y[places]
        return wrong

    def diagnostics(
        self, x: Tensor, y: Tensor, generators: Sequence[Generator], *, compare: bool
    ) -> GradientDiagnostics | None:
        """The diagnostics so far, with the cosine of two gradients at the clean images x if wanted; None of nothing."""
        if not compare:
            share = self.defects.zeros / self.defects.entries if self.defects.entries else None
            return None if share is None else GradientDiagnostics(share, self.defects.non_finite, None)
        first, second = (self.pull_back(x, self.draw(x, y, generators)).flatten(1) for _ in range(2))
        there = first.any(1) & second.any(1)
        first, second = (g[there] / g[there].abs().amax(1, keepdim=True) for g in (first, second))
        cosine = float(F.cosine_similarity(first, second).mean()) if bool(there.any()) else 0.0
        return GradientDiagnostics(self.defects.zeros / self.defects.entries, self.defects.non_finite, cosine)


@dataclass(frozen=True, slots=True)
class SelectiveAttack:
    """APGD steps along the weighted gradient, on fresh draws in every iteration.

    An image is broken if all draws of an iteration and as many fresh draws are wrong: it leaves the batch. For the
    other images the best and the last iterate are evaluated with fresh draws, and the better one is returned. The
    result of an image does not depend on the other images of the batch.

    Attributes:
        threat: norm and radius.
        access: what the attacker knows of the attacked model.
        steps: number of iterations, each with N + 1 forward passes and one backward pass.
        draws: number of draws per iteration, N.
        loss: "ce", "margin" or "dlr".
        compares: whether two draws of the gradient at the clean images are compared.
    """

    threat: ThreatModel
    access: Access
    steps: int = 30
    draws: int = 10
    loss: LossName = "ce"
    compares: bool = True

    @property
    def name(self) -> str:
        """As in "Hammer-30×10"."""
        return f"Hammer-{self.steps}×{self.draws}"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once, see :class:`~cmap_cli.attacks.types.Attack`.

        Raises:
            UsageError: the defence cannot be run in two parts.
        """
        if not isinstance(model, HasCandidates):
            raise UsageError("hammer needs a defence with purified candidates", "--defense cmap or --defense onestep")
        probe = Probe(model, self.loss, self.draws)
        found, success = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        with seeded(model, x, seed):
            climb = Climb.start(self.threat, x, y, image_generators(x, seed))
            begun, checkpoints = 0, halving_checkpoints(self.steps)
            for iteration in range(self.steps):
                if not len(climb.index):
                    break
                draws = probe.draw(climb.x_adv, climb.y, climb.generators)
                climb.remember(draws.fooled, draws.loss)
                broken = probe.confirm(climb.x_adv, climb.y, climb.generators, draws.fooled == 1)
                found[climb.index[broken]], success[climb.index[broken]] = climb.x_adv[broken], True
                climb, draws = climb.without(broken), draws.without(broken)
                climb.step(probe.pull_back(climb.x_adv, draws))
                if iteration + 1 in checkpoints:
                    climb.halve(iteration + 1 - begun)
                    begun = iteration + 1
            found[climb.index], success[climb.index] = self._better(probe, climb)
            generators = image_generators(x, seed + 1)
            return AttackResult(found, success, probe.diagnostics(x, y, generators, compare=self.compares))

    def without_comparison(self) -> SelectiveAttack:
        """See :class:`~cmap_cli.attacks.types.ComparesDraws`."""
        return replace(self, compares=False)

    def _better(self, probe: Probe, climb: Climb) -> tuple[Tensor, Tensor]:
        """The best or the last iterate, whichever is better by fresh draws, and whether most of these are wrong."""
        if not len(climb.index):
            return climb.x_adv, torch.zeros(0, dtype=torch.bool, device=climb.x.device)
        last, best = (
            probe.draw(each, climb.y, climb.generators, gradients=False) for each in (climb.x_adv, climb.best)
        )
        better = is_better(best.fooled, best.loss, last.fooled, last.loss)
        chosen = torch.where(better[:, None, None, None], climb.best, climb.x_adv)
        return chosen, best.fooled.where(better, last.fooled) > 0.5


def build_selective(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> SelectiveAttack:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    return SelectiveAttack(threat, access, steps=budget.steps, draws=selective_draws(budget))
