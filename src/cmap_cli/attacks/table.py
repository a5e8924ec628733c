"""The attacks by name: a new attack is one file and one row here. Free of torch, so that ``cmap --help`` is quick."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cmap_cli.choices import Access

if TYPE_CHECKING:  # both need torch
    from cmap_cli.attacks.threat import ThreatModel
    from cmap_cli.attacks.types import Attack
    from cmap_cli.defenses.deployed import Defenses

Role = Literal["iterative", "single-step", "noise", "other"]
"""What an attack is to the masking checks: plain PGD, FGSM, a control without an attacker, or none of them."""
GRADIENT_ACCESS: tuple[Access, ...] = ("transfer", "surrogate", "bpda", "white-box")
APGD_STEPS = 100
AUTOATTACK_QUERIES = 5000
PAPER_PASSES = 200 * 20
SELECTIVE_DRAWS = 10


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
class PlannedPasses:
    """Passes of the attacked model per image that an attack is expected to need.

    Attributes:
        forward: all of them.
        backward: those with a gradient.
    """

    forward: int
    backward: int = 0


Plan = Callable[[Budget, Access], PlannedPasses]


@dataclass(frozen=True, slots=True)
class AttackEntry:
    """A row of the table.

    Attributes:
        builder: "package.module:function", called with the threat model, the access, the budget and the deployed
            defences; returns the attack. Imported when the attack is built.
        accesses: what an attacker can be given; the first is the default.
        plan: passes that it is expected to need.
        role: for the masking checks.
        arguments: further ones of the builder, where one function builds several attacks.
        needs_gradients: whether it needs the gradient of the classifier.
    """

    builder: str
    accesses: tuple[Access, ...]
    plan: Plan
    role: Role = "other"
    arguments: tuple[str, ...] = ()
    needs_gradients: bool = True

    def build(self, threat: ThreatModel, access: Access, budget: Budget, defenses: Defenses) -> Attack:
        """The attack."""
        module, _, function = self.builder.partition(":")
        builder: Callable[..., Attack] = getattr(importlib.import_module(module), function)
        return builder(threat, access, budget, defenses, *self.arguments)

    @property
    def is_control(self) -> bool:
        """Whether it only shows what every attack has to beat."""
        return self.role == "noise"


def gradient_draws(budget: Budget, access: Access) -> int:
    """Draws of the defence in every gradient; the bare classifier has no randomness."""
    return 1 if access == "transfer" else budget.eot


def plan_pgd(budget: Budget, access: Access) -> PlannedPasses:
    """Every step is a gradient over all draws."""
    passes = PAPER_PASSES if budget.paper else budget.steps * budget.restarts * gradient_draws(budget, access)
    return PlannedPasses(passes, passes)


def selective_draws(budget: Budget) -> int:
    """Draws in every iteration of hammer: as many as in a gradient of the others, 10 if these are not averaged."""
    return budget.eot if budget.eot > 1 else SELECTIVE_DRAWS


def plan_selective(budget: Budget, access: Access) -> PlannedPasses:
    """Every step runs all draws forward, and one of them again with a gradient."""
    return PlannedPasses(budget.steps * (selective_draws(budget) + 1), budget.steps)


def plan_fgsm(budget: Budget, access: Access) -> PlannedPasses:
    """One gradient."""
    return PlannedPasses(gradient_draws(budget, access), gradient_draws(budget, access))


def plan_component(budget: Budget, access: Access) -> PlannedPasses:
    """One of AutoAttack's attacks."""
    passes = APGD_STEPS * gradient_draws(budget, access)
    return PlannedPasses(passes, passes)


def plan_autoattack(budget: Budget, access: Access) -> PlannedPasses:
    """All of its attacks; on the bare classifier it stops early, because its first attack succeeds."""
    one = plan_component(budget, access)
    if access == "transfer":
        return one
    return PlannedPasses(10 * one.forward + AUTOATTACK_QUERIES, 10 * one.backward)


def plan_square(budget: Budget, access: Access) -> PlannedPasses:
    """One pass per query."""
    return PlannedPasses(budget.queries)


def plan_disruption(budget: Budget, access: Access) -> PlannedPasses:
    """Steps on the objective of purification, counted as a share of a purification."""
    return PlannedPasses(budget.disruption // 10)


def plan_noise(budget: Budget, access: Access) -> PlannedPasses:
    """It looks at nothing."""
    return PlannedPasses(0)


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
    "fgsm": AttackEntry("cmap_cli.attacks.pgd:build_fgsm", GRADIENT_ACCESS, plan_fgsm, "single-step"),
    "hammer": AttackEntry("cmap_cli.attacks.selective:build_selective", ("white-box",), plan_selective),
    "square": AttackEntry(
        AUTOATTACK,
        ("black-box", "transfer"),
        lambda budget, _: PlannedPasses(budget.queries),
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
        lambda *_: PlannedPasses(0),
        role="noise",
        needs_gradients=False,
    ),
}
