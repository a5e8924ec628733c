"""Random noise of the full radius: a control that every attack has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmap_cli.attacks.randomness import seeded
from cmap_cli.attacks.table import Budget
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.choices import Access
from cmap_cli.core.purifier import standard_normal


@dataclass(frozen=True, slots=True)
class RandomNoise:
    """±eps for each pixel and channel in Linf; a random direction of length eps in L2 and L1; then clipped to [0, 1].

    Attributes:
        threat: norm and radius.
        access: "transfer"; the noise uses no knowledge at all.
    """

    threat: ThreatModel
    access: Access = "transfer"

    @property
    def name(self) -> str:
        """The name of the control in reports."""
        return "random noise"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Add noise to each image, see :class:`~cmap_cli.attacks.types.Attack`."""
        with seeded(model, x, seed) as generators, torch.no_grad():
            noise = standard_normal(x.shape[1:], generators).to(x)
            if self.threat.norm == "Linf":
                noise = noise.sign()
            length = self.threat.distance(noise, torch.zeros_like(noise))[:, None, None, None]
            x_adv = self.threat.project(x + self.threat.eps * noise / length, x)
            return AttackResult(x_adv, model(x_adv).argmax(1) != y)


def build_noise(threat: ThreatModel, access: Access, budget: Budget, defenses: object) -> RandomNoise:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    return RandomNoise(threat, access)
