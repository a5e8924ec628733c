"""Which attacks run, with which access: ``NAME@ACCESS``, the protocols, and what is allowed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from cmap_cli.choices import Access, Defense, Norm, Protocol
from cmap_cli.errors import UsageError

GRADIENT_ACCESS: tuple[Access, ...] = ("transfer", "surrogate", "bpda", "white-box")
AUTOATTACK = ("autoattack", "autoattack-plus", "autoattack-rand", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t")
ACCESSES: dict[str, tuple[Access, ...]] = {
    **dict.fromkeys((*AUTOATTACK, "pgd", "fgsm"), GRADIENT_ACCESS),
    "square": ("black-box", "transfer"),
    "disruption": ("adaptive",),
    "noise": ("black-box",),
}
"""What each attack can be given; the first is its access by default."""

THROUGH_THE_DEFENSE: frozenset[Access] = frozenset({"bpda", "white-box", "adaptive", "black-box"})
COMPANIONS = ("pgd@bpda", "pgd@white-box")
"""What the end-to-end protocol adds where nothing that was asked for goes through the defence."""

PROTOCOLS: dict[Protocol, tuple[str, ...]] = {
    "end-to-end": ("autoattack@transfer", "pgd@surrogate", "pgd@bpda", "pgd@white-box", "square@black-box"),
    "paper": ("pgd@surrogate", "autoattack@surrogate"),
}


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """An attack and what its attacker sees.

    Attributes:
        name: of ACCESSES.
        access: transfer: the bare classifier; surrogate: a one-step denoiser before it; bpda: the defence, its
            gradient replaced by the identity; white-box: the defence, differentiated; adaptive: the purification's
            own objective; black-box: the defence's scores.
        control: whether it only serves a masking check.
    """

    name: str
    access: Access
    control: bool = False

    def __str__(self) -> str:
        """NAME@ACCESS."""
        return f"{self.name}@{self.access}"

    @property
    def regardless(self) -> bool:
        """Whether what it makes is the same for every defence."""
        return self.access in ("transfer", "surrogate") or self.name == "noise"

    def applies_to(self, defense: Defense) -> bool:
        """Whether there is such an attack on a defence.

        The bare classifier has nothing to go through, one step is differentiable as it is, JPEG is not at all, and
        consistency disruption works in the latents of purification.
        """
        return self.access in APPLICABLE[defense] or (self.control and self.regardless)


APPLICABLE: dict[Defense, frozenset[Access]] = {
    "none": frozenset({"transfer"}),
    "jpeg": frozenset({"transfer", "bpda", "black-box"}),
    "onestep": frozenset({"transfer", "surrogate", "white-box", "black-box"}),
    "cmap": frozenset(get_args(Access)),
}
LARGE: dict[Norm, str] = {"Linf": "0.5", "L2": "28", "L1": "1536"}
"""Radius at which an attack can make any image of any other: half the range at every pixel of 32×32."""


def controls(specs: Sequence[AttackSpec]) -> tuple[AttackSpec, ...]:
    """Attacks that must be weaker than those asked for; if they are not, something is masked."""
    single = [AttackSpec("fgsm", spec.access, control=True) for spec in specs if spec.name == "pgd"]
    return (AttackSpec("noise", "black-box", control=True), *dict.fromkeys(single))


def large_control(specs: Sequence[AttackSpec]) -> AttackSpec | None:
    """The cheapest attack through the defence, for a radius at which nothing may be left of the accuracy."""
    through = [spec for spec in specs if spec.name == "pgd" and spec.access in THROUGH_THE_DEFENSE]
    cheapest = min(through, key=lambda spec: spec.access != "bpda", default=None)
    return None if cheapest is None else replace(cheapest, control=True)


def parse_attacks(
    attacks: Sequence[str], accesses: Sequence[str], protocol: Protocol | None, defenses: Sequence[Defense]
) -> tuple[AttackSpec, ...]:
    """What the options ask for.

    Args:
        attacks: names, or NAME@ACCESS; nothing: the protocol's own.
        accesses: for names without one; nothing: the attack's default, and under the end-to-end protocol the
            companions, if no attack goes through the defence.
        protocol: which; None for exactly the attacks given.
        defenses: what is attacked.

    Raises:
        UsageError: an unknown name, or an access that the attack cannot be given; all problems at once.
    """
    problems: list[UsageError] = []
    unknown = [access for access in accesses if access not in get_args(Access)]
    problems += [UsageError(f"--access {each} is none of {', '.join(get_args(Access))}") for each in unknown]
    specs: list[AttackSpec] = []
    for text in attacks or (PROTOCOLS[protocol] if protocol else ()):
        name, _, given = text.partition("@")
        if name not in ACCESSES:
            problems.append(UsageError(f"there is no attack {name}", f"one of {', '.join(ACCESSES)}"))
            continue
        wanted = [given] if given else [each for each in accesses if each not in unknown]
        default = "surrogate" if protocol == "paper" and "surrogate" in ACCESSES[name] else ACCESSES[name][0]
        for access in wanted or [default]:
            allowed = next((each for each in ACCESSES[name] if each == access), None)
            if allowed is None:
                problems.append(UsageError(f"{name} cannot have the access {access}", ", ".join(ACCESSES[name])))
            elif protocol == "paper" and allowed != "surrogate":
                problems.append(UsageError(f"--protocol paper attacks the surrogate, not {name}@{access}"))
            else:
                specs.append(AttackSpec(name, allowed))
    if problems:
        raise problems[0] if len(problems) == 1 else UsageError("several attacks are wrong", problems=problems)
    explicit = bool(accesses) or any("@" in text for text in attacks)
    defended = any(defense != "none" for defense in defenses)
    nothing_through = not any(spec.access in THROUGH_THE_DEFENSE for spec in specs)
    if protocol == "end-to-end" and defended and nothing_through and not explicit:
        specs += parse_attacks(COMPANIONS, (), protocol, ())
    return tuple(dict.fromkeys(specs))
