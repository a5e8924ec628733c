"""Runs an attack on the module that its access determines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import ComparesDraws
from cmap_cli.benchmarking.documents import GradientRecord
from cmap_cli.benchmarking.specs import AttackSpec
from cmap_cli.defenses.base import Passes
from cmap_cli.defenses.deployed import AttackedModule, Defenses


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """The result of an attack on a batch.

    Attributes:
        method: name of the attack with its settings.
        x_adv: (B, C, H, W) in [0, 1], inside the ball.
        reported_success: whether the attack itself reports success, (B,) bool on the CPU.
        gradient: diagnostics of its gradients; None if it has none or does not report them.
        flags: its warnings.
        passes: number of images that went through the attacked module, forward and backward.
    """

    method: str
    x_adv: Tensor
    reported_success: Tensor
    gradient: GradientRecord | None = None
    flags: tuple[str, ...] = ()
    passes: Passes = field(default_factory=Passes)


def attack_images(
    defenses: Defenses,
    spec: AttackSpec,
    threat: ThreatModel,
    defense: str | None,
    budget: Budget,
    x: Tensor,
    y: Tensor,
    on_target: Callable[[AttackedModule], None] | None = None,
    *,
    compare: bool = True,
) -> AttackOutcome:
    """Attack a batch of images.

    Args:
        defenses: the deployed defences.
        spec: the attack and its access.
        threat: the ball.
        defense: name of the attacked defence; None if the attack does not depend on it.
        budget: steps, draws and queries of the attack.
        x: images in [0, 1], (B, C, H, W), on the classifier's device.
        y: their classes, (B,) int64.
        on_target: called with the attacked module before the attack.
        compare: whether two draws of the gradient are compared, if the attack can do that.
    """
    target = defenses.target(spec.access, defense, unroll=budget.unroll, smoothing=budget.smoothing)
    if on_target is not None:
        on_target(target)
    attack = ATTACKS[spec.name].build(threat, spec.access, budget, defenses)
    if not compare and isinstance(attack, ComparesDraws):
        attack = attack.without_comparison()
    result = attack.run(target.eval(), x, y, defenses.seed)
    found = result.diagnostics
    gradient = None
    if found is not None:
        gradient = GradientRecord(zero=found.zero_share, not_finite=found.non_finite, cosine=found.cosine)
    x_adv = result.x_adv.detach()
    return AttackOutcome(attack.name, x_adv, result.reported_success.cpu(), gradient, result.flags, target.passes)
