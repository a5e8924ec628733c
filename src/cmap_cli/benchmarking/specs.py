"""Parses attacks and their access: ``NAME@ACCESS``, the protocols, and which combinations are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.choices import Access, Norm, Protocol
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all, suggestion

THROUGH_THE_DEFENSE: frozenset[Access] = frozenset({"bpda", "white-box", "adaptive", "black-box"})
DEFENSE_AGNOSTIC: frozenset[Access] = frozenset({"transfer", "surrogate"})
COMPANIONS = ("pgd@bpda", "pgd@white-box")
"""Attacks that the end-to-end protocol adds if no requested attack goes through the defence."""

PROTOCOLS: dict[Protocol, tuple[str, ...]] = {
    "end-to-end": ("autoattack@transfer", "pgd@surrogate", "pgd@bpda", "pgd@white-box", "square@black-box"),
    "paper": ("pgd@surrogate", "autoattack@surrogate"),
}


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """An attack and its access.

    Attributes:
        name: a name of :data:`~cmap_cli.attacks.table.ATTACKS`.
        access: transfer: the bare classifier; surrogate: a one-step denoiser before it; bpda: the defence, its
            gradient replaced by the identity; white-box: the defence, differentiated; adaptive: the purification's
            own objective; black-box: the defence's scores.
        control: whether it is used only by a masking check.
    """

    name: str
    access: Access
    control: bool = False

    def __str__(self) -> str:
        """NAME@ACCESS."""
        return f"{self.name}@{self.access}"

    @property
    def is_defense_agnostic(self) -> bool:
        """Whether the images that it makes are the same for every defence."""
        return self.access in DEFENSE_AGNOSTIC

    @property
    def through_defense(self) -> bool:
        """Whether it attacks the defence that is deployed."""
        return self.access in THROUGH_THE_DEFENSE and not self.control

    def applies_to(self, defense: str) -> bool:
        """Whether this attack is possible on a defence; every defence is evaluated on the images of controls."""
        return self.access in DEFENSES[defense].accesses or (self.control and self.is_defense_agnostic)


LARGE: dict[Norm, str] = {"Linf": "0.5", "L2": "28", "L1": "1536"}
"""Radius at which an attack can turn any image into any other: half the range at every pixel of 32×32."""


def controls(specs: Sequence[AttackSpec]) -> tuple[AttackSpec, ...]:
    """Attacks that must be weaker than the requested ones; if they are not, gradients are masked."""
    single = [AttackSpec("fgsm", spec.access, control=True) for spec in specs if spec.name == "pgd"]
    return (AttackSpec("noise", "transfer", control=True), *dict.fromkeys(single))


def large_control(specs: Sequence[AttackSpec]) -> AttackSpec | None:
    """The cheapest attack through the defence, for a very large radius, at which accuracy must not be above chance."""
    through = [spec for spec in specs if spec.name == "pgd" and spec.access in THROUGH_THE_DEFENSE]
    cheapest = min(through, key=lambda spec: spec.access != "bpda", default=None)
    return None if cheapest is None else replace(cheapest, control=True)


def parse_attacks(
    attacks: Sequence[str], accesses: Sequence[str], protocol: Protocol | None, defenses: Sequence[str]
) -> tuple[AttackSpec, ...]:
    """The attacks that the options request.

    Args:
        attacks: names, or NAME@ACCESS; if empty, those of the protocol.
        accesses: accesses for names without ``@``; if empty, the default of each attack, and under the end-to-end
            protocol also the companions, if no attack goes through the defence.
        protocol: the protocol; None for exactly the given attacks.
        defenses: names of the attacked defences.

    Raises:
        UsageError: an unknown name, or an access that the attack does not support; all problems at once.
    """
    problems: list[CmapError] = []
    known = get_args(Access)
    unknown = [access for access in accesses if access not in known]
    problems += [UsageError(f"--access {each} does not exist", suggestion(each, known)) for each in unknown]
    specs: list[AttackSpec] = []
    for text in attacks or (PROTOCOLS[protocol] if protocol else ()):
        with collecting(problems):
            specs += parse_attack(text, [each for each in accesses if each not in unknown], protocol)
    raise_all(problems)
    explicit = bool(accesses) or any("@" in text for text in attacks)
    defended = any(defense != "none" for defense in defenses)
    if protocol == "end-to-end" and defended and not explicit and not any(spec.through_defense for spec in specs):
        specs += parse_attacks(COMPANIONS, (), protocol, ())
    return tuple(dict.fromkeys(specs))


def parse_attack(text: str, accesses: Sequence[str], protocol: Protocol | None) -> list[AttackSpec]:
    """One NAME or NAME@ACCESS: an attack for each access.

    Args:
        text: text of the user.
        accesses: accesses for a name without ``@``.
        protocol: the protocol; "paper" attacks only the surrogate.

    Raises:
        UsageError: an unknown name, or an access that the attack does not support.
    """
    name, at, given = text.partition("@")
    if name not in ATTACKS:
        raise UsageError(f"there is no attack {name!r}", suggestion(name, ATTACKS))
    if at and not given:
        raise UsageError(f"--attack {text} names no access", f"one of {', '.join(ATTACKS[name].accesses)}")
    entry = ATTACKS[name]
    default = "surrogate" if protocol == "paper" and "surrogate" in entry.accesses else entry.accesses[0]
    specs = []
    for access in [given] if given else accesses or [default]:
        allowed = next((each for each in entry.accesses if each == access), None)
        if allowed is None:
            hint = suggestion(access, get_args(Access))
            if access in get_args(Access):
                hint = f"its accesses are {', '.join(entry.accesses)}"
            raise UsageError(f"{name} cannot have the access {access}", hint)
        if protocol == "paper" and allowed != "surrogate":
            raise UsageError(f"--protocol paper attacks the surrogate, not {name}@{access}")
        specs.append(AttackSpec(name, allowed, control=entry.is_control))
    return specs


def parse_defenses(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the defences, without repetitions (UsageError for unknown names)."""
    raise_all(
        [
            UsageError(f"there is no defence {name!r}", suggestion(name, DEFENSES))
            for name in names
            if name not in DEFENSES
        ]
    )
    return tuple(dict.fromkeys(names))


def needing_gradients(specs: Sequence[AttackSpec]) -> list[str]:
    """The attacks that need the gradient of the classifier."""
    return [str(spec) for spec in specs if ATTACKS[spec.name].needs_gradients]
