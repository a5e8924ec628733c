"""Consistency disruption: the paper's attack on CMAP (arXiv 2412.08394), with errors of its code corrected.

It works in the latent space of the defence. It starts as purification does, then moves the latents until the classifier
is wrong on the images that they generate; these images are projected to the ball around the original image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cmap_cli.attacks.gradients import cross_entropy, margin
from cmap_cli.attacks.pgd import is_better
from cmap_cli.attacks.randomness import seeded
from cmap_cli.attacks.table import ADV_FACTOR, Budget
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.choices import Access
from cmap_cli.core.adam import Adam
from cmap_cli.core.consistency import to_unit_range
from cmap_cli.core.descent import Descent
from cmap_cli.core.predict import classify
from cmap_cli.core.purifier import Purifier
from cmap_cli.defenses.base import Passes, class_condition
from cmap_cli.defenses.deployed import Defenses


@dataclass(frozen=True, slots=True)
class ConsistencyDisruption:
    """Minimise L(z) − adv_factor · Σ_k cross-entropy(classifier(project(x̂_k)), y) after some steps on L alone.

    Adam, its settings and L are those of the purifier; the schedule of the learning rate has the length ``total``. The
    projection is the identity in the backward pass: x̂ is outside the ball at most pixels, where its gradient would be
    0. The deployed defence gets one image, so of the K projected images the one is returned on which the defence is
    wrong most often. The steps of the attack count as passes: the steps of one purification are one forward pass.

    Attributes:
        threat: norm and radius.
        purifier: that of the defence.
        classifier: that of the defence; images in [0, 1] -> logits.
        first: number of steps on L alone, as in purification of the clean image.
        total: number of all steps.
        adv_factor: weight of the cross-entropy, in units of L (a sum over pixels and channels).
        evaluations: calls of the deployed defence for each of the K images.
        access: what the attacker knows, "adaptive".
    """

    threat: ThreatModel
    purifier: Purifier
    classifier: nn.Module
    first: int = 200
    total: int = 1000
    adv_factor: float = ADV_FACTOR
    evaluations: int = 5
    access: Access = "adaptive"

    @property
    def name(self) -> str:
        """The name with the number of steps."""
        return f"consistency disruption-{self.total}"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once, see :class:`~cmap_cli.attacks.types.Attack`; ``model`` is the deployed defence."""
        with seeded(model, x, seed) as generators:
            draw = self.purifier.draw(x, generators)
            labels = class_condition(self.purifier.model, self.classifier, x)
            self._count(model, len(x))
            candidates = self._optimise(self.purifier.descent(x, draw, labels), x, y)
            best = x.clone()
            best_loss = best_fooled = torch.full((len(x),), -torch.inf, device=x.device)
            for candidate in candidates.unbind(1):
                loss, fooled = self._evaluate(model, candidate, y)
                better = is_better(fooled, loss, best_fooled, best_loss)
                best = torch.where(better[:, None, None, None], candidate, best)
                best_loss, best_fooled = loss.where(better, best_loss), fooled.where(better, best_fooled)
            return AttackResult(best, best_fooled > 0.5)

    def _count(self, model: nn.Module, images: int) -> None:
        """Add the attack's own steps to the passes of a model that counts its passes."""
        passes = getattr(model, "passes", None)
        if isinstance(passes, Passes):
            passes.forward += round(images * self.total / max(1, self.purifier.config.steps))

    def _optimise(self, descent: Descent, x: Tensor, y: Tensor) -> Tensor:
        """Run all steps; returns the K projected images per image, (B, K, C, H, W)."""
        config = replace(descent.config, method="optimise", steps=self.total)
        v = torch.zeros_like(descent.start).requires_grad_()
        adam = Adam(v, config.betas)
        labels = y.repeat_interleave(config.num_latents)
        for index in range(self.total):
            with torch.enable_grad():
                z = descent.latents(v)
                x_hat = descent.candidates(z)
                total = descent.objective(x_hat, z).total.sum()
                if index >= self.first:
                    free = to_unit_range(x_hat)
                    pulled = free + (self._project(free, x) - free).detach()
                    logits = classify(self.classifier, pulled).flatten(0, 1)
                    total = total - self.adv_factor * cross_entropy(logits, labels).sum()
                (gradient,) = torch.autograd.grad(total, v)
            adam.step(gradient, config.lr_at(index))
        with torch.no_grad():
            return self._project(to_unit_range(descent.candidates(descent.latents(v))), x)

    def _project(self, samples: Tensor, x: Tensor) -> Tensor:
        """Project every candidate (B, K, C, H, W) to the ball around its image (B, C, H, W)."""
        around = x.unsqueeze(1).expand_as(samples)
        return self.threat.project(samples.flatten(0, 1), around.flatten(0, 1)).reshape(samples.shape)

    def _evaluate(self, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean margin and share of failures of the deployed defence over fresh draws, (B,) each."""
        with torch.no_grad():
            margins = torch.stack([margin(model(x_adv), y) for _ in range(self.evaluations)])
        return margins.mean(0), (margins > 0).float().mean(0)


def build_disruption(threat: ThreatModel, access: Access, budget: Budget, defenses: Defenses) -> ConsistencyDisruption:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`; a fifth of the steps is purification alone, as in the paper."""
    first, total = budget.disruption // 5, budget.disruption
    return ConsistencyDisruption(
        threat, defenses.purifier, defenses.classifier, first=first, total=total, adv_factor=budget.adv_factor
    )
