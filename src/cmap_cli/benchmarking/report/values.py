"""The types of a report: schema "cmap.report/1"; docs/reference/report.md describes every field."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cmap_cli.benchmarking.report.statistics import Accuracy, Rate

SCHEMA = "cmap.report/1"


@dataclass(frozen=True, slots=True)
class AttackCost:
    """Seconds, and forward and backward passes of the attacked model, summed over images."""

    seconds: float
    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Gradient:
    """Diagnostics of the attack's gradients; None if no record has any."""

    zero: float | None
    not_finite: int
    cosine: float | None


@dataclass(frozen=True, slots=True)
class AttackRow:
    """One attack with one access against one defence; ``wrong`` are the numbers of the images whose vote is wrong.

    ``skipped`` are the images that it was not run on, because an earlier attack of the cascade has broken them. All
    other fields describe the other images: they are not the accuracy under the attack, and None without such images.
    """

    attack: str
    access: str
    through_defense: bool
    control: bool
    defended: Accuracy | None
    undefended: Rate | None
    bare: Rate | None
    unchanged: int
    reported_success: int
    max_distance: float | None
    within_eps: bool
    gradient: Gradient | None
    cost: AttackCost
    wrong: tuple[int, ...] = ()
    skipped: tuple[int, ...] = ()

    @property
    def run_on(self) -> int:
        """The number of images that it was run on."""
        return self.defended.vote.n if self.defended else 0


@dataclass(frozen=True, slots=True)
class ClassResult:
    """The accuracies on the images of one class."""

    label: int
    name: str
    n: int
    undefended_clean: Rate | None
    undefended_attacked: Rate | None
    defended_clean: Rate | None
    defended_attacked: Rate | None


@dataclass(frozen=True, slots=True)
class FailedUnder:
    """An attack under which the vote on an image was wrong; prediction None for a tie."""

    attack: str
    access: str
    prediction: int | None


@dataclass(frozen=True, slots=True)
class BrokenImage:
    """An image on which the defence failed; right_clean None if the clean image was not evaluated."""

    image: int
    key: str
    label: int
    right_clean: bool | None
    under: tuple[FailedUnder, ...]


@dataclass(frozen=True, slots=True)
class AccessResult:
    """A defence in the worst case over the attacks with one access."""

    access: str
    accuracy: Accuracy


@dataclass(frozen=True, slots=True)
class Resubmission:
    """Shares of images that are right in each of N submissions; ``clean`` is None without clean images."""

    submissions: int
    attacked: float
    clean: float | None


@dataclass(frozen=True, slots=True)
class ThreatResult:
    """One defence within one ball; n is the number of images that have results of every attack.

    ``by_access`` holds the worst case by access; ``informed`` is the worst case over the attacks through the defence,
    ``uninformed`` over those made on the bare classifier (transfer). ``resubmissions`` has the accuracy that is left if
    the attacker submits an image several times; empty for one draw per image.
    """

    norm: str
    eps: str
    eps_value: float
    n: int
    access: tuple[str, ...]
    worst_case: Accuracy | None
    undefended: Rate | None
    attacks: tuple[AttackRow, ...]
    controls: tuple[AttackRow, ...]
    classes: tuple[ClassResult, ...]
    failures: tuple[BrokenImage, ...]
    by_access: tuple[AccessResult, ...] = ()
    informed: Accuracy | None = None
    uninformed: Accuracy | None = None
    resubmissions: tuple[Resubmission, ...] = ()


@dataclass(frozen=True, slots=True)
class DefenseResult:
    """One defence, clean and in every ball; ``clean_wrong`` are the numbers of clean images that it has wrong."""

    defense: str
    clean: Accuracy | None
    threats: tuple[ThreatResult, ...]
    clean_wrong: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Headline:
    """The main result of a report, with the values that belong to it."""

    defense: str
    norm: str
    eps: str
    eps_value: float
    protocol: str
    n: int
    accuracy: Accuracy
    clean: Accuracy | None
    undefended_clean: Rate | None
    undefended_attacked: Rate | None
    access: tuple[str, ...]
    attacks: tuple[str, ...]
    through_defense: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Example:
    """An attacked image to show: the file of its pixels, and the predictions."""

    image: int
    key: str
    label: int
    attack: str
    access: str
    eps: str
    distance: float | None
    unchanged: bool
    undefended_clean: int | None
    defended_clean: int | None
    undefended: int
    defended: int | None
    draws: int
    draws_right: int
    failed: bool
    file: str
    row: int


@dataclass(frozen=True, slots=True)
class ReportFlag:
    """A check: ``fired`` if it found something, ``what`` describes it, ``checked`` if there was anything to check."""

    name: str
    fired: bool
    what: str
    attack: str | None
    checked: bool

    @property
    def state(self) -> str:
        """The state of the check in one or two words."""
        if not self.checked:
            return "not run"
        return "fired" if self.fired else "nothing found"


@dataclass(frozen=True, slots=True)
class AccessTaxonomy:
    """An access in the terms of NIST AI 100-2 (class, knowledge, capabilities) and MITRE ATLAS (technique)."""

    access: str
    attack_class: str
    knowledge: str
    capabilities: tuple[str, ...]
    technique: str


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The attacks of a run in the terms of NIST AI 100-2 and MITRE ATLAS; ``mitigation`` is the kind of defence."""

    goal: str
    stage: str
    mitigation: str | None
    access: tuple[AccessTaxonomy, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """report.json: the results of a benchmark; report.html and report.md are made from it."""

    schema: str
    complete: bool
    headline: Headline | None
    warnings: tuple[str, ...]
    undefended_clean: Rate | None
    defenses: tuple[DefenseResult, ...]
    flags: tuple[ReportFlag, ...]
    cost: AttackCost
    examples: tuple[Example, ...]
    limits: tuple[str, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    verdict: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    taxonomy: Taxonomy | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    def balls(self) -> list[tuple[str, str]]:
        """Norm and eps of every ball that has attacks other than controls, by norm and size."""
        threats = [threat for one in self.defenses for threat in one.threats if threat.attacks]
        threats.sort(key=lambda threat: (threat.norm, threat.eps_value))
        return list(dict.fromkeys((threat.norm, threat.eps) for threat in threats))

    def headline_threat(self) -> ThreatResult | None:
        """The defence and ball of the headline."""
        head = self.headline
        if head is None:
            return None
        threats = (threat for one in self.defenses if one.defense == head.defense for threat in one.threats)
        return next(threat for threat in threats if (threat.norm, threat.eps) == (head.norm, head.eps))

    def class_name(self, label: int | None) -> str:
        """The name of a class, its number if it has none; a vote that ended in a tie has no class."""
        if label is None:
            return "tie"
        names = self.provenance.get("classes")
        if isinstance(names, list) and 0 <= label < len(names):
            return str(names[label])
        return str(label)
