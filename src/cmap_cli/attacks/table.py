"""The table of attacks: a new attack is one file and one row. Imports no torch, so that ``cmap --help`` is quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from cmap_cli.choices import Access

if TYPE_CHECKING:  # both need torch
    from cmap_cli.attacks.threat import ThreatModel
    from cmap_cli.attacks.types import Attack
    from cmap_cli.defenses.deployed import Defenses

Role = Literal["iterative", "single-step", "noise", "other"]
"""How the masking checks use an attack: plain PGD, FGSM, random noise, or not at all."""
GRADIENT_ACCESS: tuple[Access, ...] = ("transfer", "surrogate", "bpda", "white-box")
APGD_STEPS = 100
AUTOATTACK_QUERIES = 5000
SELECTIVE_DRAWS = 10
AUTOATTACK_CHECKS = 10
"""Passes that pyautoattack makes before the first attack, to check the model."""
ADV_FACTOR = 1000.0
"""Default weight of the classifier in disruption."""
PAPER_STEPS, PAPER_DRAWS = 200, 20
DISRUPTION_EVALUATIONS = 5 * 10
"""Evaluations of the defence in disruption: 5 for each of ten latents."""
EARLY = 0.1
"""Share of its planned passes that an attack needs if it ends early."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much an attack may try.

    Attributes:
        steps: steps of pgd, mdi-pgd and hammer.
        restarts: restarts of pgd and mdi-pgd.
        eot: draws of the defence per gradient, for pgd, APGD and hammer.
        queries: queries of square.
        unroll: number of last optimisation steps that white-box gradients are computed through; None for all.
        smoothing: width of the smoothing of |x̂ − y| in white-box gradients, see
            :func:`~cmap_cli.defenses.unroll.purify_unrolled`.
        disruption: steps of the consistency disruption, the first fifth on purification alone; 1000 in the paper.
        adv_factor: weight of the classifier in the consistency disruption, against the objective of purification.
        paper: whether pgd is run as published: 200 steps of eps/200 without random start, 20 draws per gradient.
    """

    steps: int = 20
    restarts: int = 1
    eot: int = 1
    queries: int = 5000
    unroll: int | None = None
    smoothing: float = 0.0
    disruption: int = 1000
    adv_factor: float = ADV_FACTOR
    paper: bool = False


@dataclass(frozen=True, slots=True)
class PlannedPasses:
    """Passes of the attacked model per image that an attack needs, if it does not end early.

    Attributes:
        forward: number of all passes.
        backward: number of passes with a gradient.
        steps: optimisation steps on the objective of purification.
        least: share of all these that is enough if the attack succeeds at once or the image is misclassified.
    """

    forward: int
    backward: int = 0
    steps: int = 0
    least: float = 1.0


Plan = Callable[[Budget, Access], PlannedPasses]


@dataclass(frozen=True, slots=True)
class AttackEntry:
    """A row of the table.

    Attributes:
        builder: "package.module:function", called with the threat model, the access, the budget and the deployed
            defences; returns the attack. Imported when the attack is built.
        accesses: the supported accesses; the first is the default.
        plan: function from budget and access to the passes that the attack needs.
        role: how the masking checks use it.
        arguments: further arguments of the builder, if one function builds several attacks.
        needs_gradients: whether it needs the gradient of the classifier.
    """

    builder: str
    accesses: tuple[Access, ...]
    plan: Plan
    role: Role = "other"
    arguments: tuple[str, ...] = ()
    needs_gradients: bool = True

    def build(self, threat: ThreatModel, access: Access, budget: Budget, defenses: Defenses) -> Attack:
        """Build the attack."""
        module, _, function = self.builder.partition(":")
        builder: Callable[..., Attack] = getattr(importlib.import_module(module), function)
        return builder(threat, access, budget, defenses, *self.arguments)

    @property
    def is_control(self) -> bool:
        """Whether it is always a control: random noise."""
        return self.role == "noise"


def gradient_draws(budget: Budget, access: Access) -> int:
    """Draws of the defence per gradient; 1 for the bare classifier, which has no randomness."""
    return 1 if access == "transfer" else budget.eot


def plan_pgd(budget: Budget, access: Access) -> PlannedPasses:
    """One gradient over all draws per step; two evaluations per restart; two gradients that are compared."""
    draws, steps, restarts = gradient_draws(budget, access), budget.steps, budget.restarts
    if budget.paper:
        draws, steps, restarts = PAPER_DRAWS, PAPER_STEPS, 1
    gradients = steps * restarts * draws + 2
    return PlannedPasses(gradients + 2 * restarts * draws, gradients)


def plan_diverse(budget: Budget, access: Access) -> PlannedPasses:
    """As :func:`plan_pgd`, with the user's steps under every protocol."""
    return plan_pgd(replace(budget, paper=False), access)


def selective_draws(budget: Budget) -> int:
    """Draws per iteration of hammer: ``eot``, or 10 if that is 1."""
    return budget.eot if budget.eot > 1 else SELECTIVE_DRAWS


def plan_selective(budget: Budget, access: Access) -> PlannedPasses:
    """Per step one forward pass for each draw, and one pass with a gradient."""
    return PlannedPasses(budget.steps * (selective_draws(budget) + 1), budget.steps)


def plan_fgsm(budget: Budget, access: Access) -> PlannedPasses:
    """As :func:`plan_pgd` with one step."""
    draws = gradient_draws(budget, access)
    return PlannedPasses(3 * draws + 2, draws + 2)


def plan_component(budget: Budget, access: Access) -> PlannedPasses:
    """One of AutoAttack's attacks, after its checks."""
    passes = (APGD_STEPS + 1) * gradient_draws(budget, access)
    return PlannedPasses(passes + AUTOATTACK_CHECKS, passes, least=EARLY)


def plan_autoattack(budget: Budget, access: Access) -> PlannedPasses:
    """All attacks of AutoAttack; on the bare classifier only the first one, which nearly always succeeds."""
    one = plan_component(budget, access)
    if access == "transfer":
        return one
    return PlannedPasses(10 * one.forward + AUTOATTACK_QUERIES, 10 * one.backward, least=EARLY)


def plan_square(budget: Budget, access: Access) -> PlannedPasses:
    """One pass per query."""
    return PlannedPasses(budget.queries + AUTOATTACK_CHECKS, least=EARLY)


def plan_disruption(budget: Budget, access: Access) -> PlannedPasses:
    """Steps on the objective of purification, then evaluations of the image that each latent generates."""
    return PlannedPasses(DISRUPTION_EVALUATIONS, steps=budget.disruption)


AUTOATTACK = "cmap_cli.attacks.autoattack:build_autoattack"
ATTACKS: dict[str, AttackEntry] = {
    "autoattack": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_autoattack, arguments=("standard",)),
    "autoattack-plus": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_autoattack, arguments=("plus",)),
    "autoattack-rand": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_autoattack, arguments=("rand",)),
    "apgd-ce": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_component, arguments=("apgd-ce",)),
    "apgd-dlr": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_component, arguments=("apgd-dlr",)),
    "apgd-t": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_component, arguments=("apgd-t",)),
    "fab": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_component, arguments=("fab",)),
    "fab-t": AttackEntry(AUTOATTACK, GRADIENT_ACCESS, plan_component, arguments=("fab-t",)),
    "pgd": AttackEntry("cmap_cli.attacks.pgd:build_pgd", GRADIENT_ACCESS, plan_pgd, "iterative"),
    "mdi-pgd": AttackEntry("cmap_cli.attacks.pgd:build_diverse", GRADIENT_ACCESS, plan_diverse),
    "fgsm": AttackEntry("cmap_cli.attacks.pgd:build_fgsm", GRADIENT_ACCESS, plan_fgsm, "single-step"),
    "hammer": AttackEntry("cmap_cli.attacks.selective:build_selective", ("white-box",), plan_selective),
    "square": AttackEntry(
        AUTOATTACK,
        ("black-box", "transfer"),
        plan_square,
        arguments=("square",),
        needs_gradients=False,
    ),
    "disruption": AttackEntry(
        "cmap_cli.attacks.disruption:build_disruption",
        ("adaptive",),
        plan_disruption,
    ),
    "noise": AttackEntry(
        "cmap_cli.attacks.noise:build_noise",
        ("transfer",),
        lambda *_: PlannedPasses(1),
        role="noise",
        needs_gradients=False,
    ),
}
