"""Which module an attacker is pointed at, and what the deployed defences make of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from cmap_cli.attacks.autoattack import AutoAttack
from cmap_cli.attacks.disruption import ConsistencyDisruption
from cmap_cli.attacks.noise import RandomNoise
from cmap_cli.attacks.pgd import PGD, fgsm, paper_pgd
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import Attack
from cmap_cli.benchmarking.documents import GradientRecord
from cmap_cli.benchmarking.specs import AttackSpec
from cmap_cli.choices import Defense
from cmap_cli.defenses.base import Passes
from cmap_cli.defenses.deployed import Defenses

PAPER_EOT = 20


@dataclass(frozen=True, slots=True)
class Budget:
    """How much an attack may try.

    Attributes:
        steps: of pgd.
        restarts: of pgd.
        eot: draws of the defence in every gradient, of pgd and of APGD.
        queries: of square.
        unroll: optimisation steps that white-box gradients go back through, from the last; None for all.
        smoothing: of |x̂ − y| in white-box gradients, see :func:`~cmap_cli.defenses.unroll.purify_unrolled`.
        disruption: steps of the consistency disruption, the first fifth on purification alone; 1000 in the paper.
        paper: pgd as published, 200 steps of eps/200 without random start, and 20 draws in every gradient.
    """

    steps: int = 20
    restarts: int = 1
    eot: int = 1
    queries: int = 5000
    unroll: int | None = None
    smoothing: float = 0.0
    disruption: int = 1000
    paper: bool = False


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """What an attack on a batch brought.

    Attributes:
        method: the attack with its settings.
        x_adv: (B, C, H, W) in [0, 1], inside the ball.
        reported_success: the attack's own claim, (B,) bool on the CPU.
        gradient: what its gradients looked like; None if it has none or does not tell.
        flags: what it warned of.
        passes: images that went through the attacked module, forward and backward.
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
    defense: Defense | None,
    budget: Budget,
    x: Tensor,
    y: Tensor,
) -> AttackOutcome:
    """Attack a batch of images.

    Args:
        defenses: deployed.
        spec: the attack and its access.
        threat: the ball.
        defense: which one it goes through; None if it is made without regard to it.
        budget: how much it may try.
        x: images in [0, 1], (B, C, H, W), on the classifier's device.
        y: their classes, (B,) int64.
    """
    model = defenses.target(spec.access, defense, unroll=budget.unroll, smoothing=budget.smoothing).eval()
    attack = build_attack(defenses, spec, threat, budget)
    result = attack.run(model, x, y, defenses.seed)
    found = result.diagnostics
    gradient = None
    if found is not None:
        gradient = GradientRecord(zero=found.zero_share, not_finite=found.non_finite, cosine=found.cosine)
    x_adv = result.x_adv.detach()
    return AttackOutcome(attack.name, x_adv, result.reported_success.cpu(), gradient, result.flags, model.passes)


def build_attack(defenses: Defenses, spec: AttackSpec, threat: ThreatModel, budget: Budget) -> Attack:
    """The attack that a name stands for."""
    eot = 1 if spec.access == "transfer" else budget.eot  # the bare classifier has no randomness
    match spec.name:
        case "pgd" if budget.paper:
            return paper_pgd(threat, spec.access)
        case "pgd":
            return PGD(threat, spec.access, steps=budget.steps, restarts=budget.restarts, eot=eot)
        case "fgsm":
            return fgsm(threat, spec.access, eot)
        case "noise":
            return RandomNoise(threat, spec.access)
        case "square":
            return AutoAttack(threat, spec.access, "square", n_queries=budget.queries)
        case "disruption":
            return ConsistencyDisruption(
                threat,
                defenses.purifier,
                defenses.classifier,
                first=budget.disruption // 5,
                total=budget.disruption,
            )
    version: Any = {"autoattack": "standard", "autoattack-plus": "plus", "autoattack-rand": "rand"}.get(
        spec.name, spec.name
    )
    if budget.paper and spec.access != "transfer":
        eot = PAPER_EOT
    return AutoAttack(threat, spec.access, version, eot_iter=eot if eot > 1 else None)
