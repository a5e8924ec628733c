"""The conditions of a CI job on a run; a condition is not met if the run lacks what it needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from cmap_cli.benchmarking.report.statistics import Rate, rate
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Headline, Report, ThreatResult
from cmap_cli.benchmarking.report.words import counted
from cmap_cli.benchmarking.specs import THROUGH_THE_DEFENSE, AttackSpec
from cmap_cli.choices import Access, FailOn
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all, suggestion

ALWAYS_FATAL = ("certificates",)
"""Checks that always fail a run if they fire: a certificate that an attack breaks means that the program has a bug."""
CLASS = "class:"
CLEAN = "defended clean accuracy"
HINT = "write 0.5, white-box=0.3, white-box@4/255=0.2 or 8/255@class:cat=0.1"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The lowest robust accuracy that passes.

    Attributes:
        value: in [0, 1].
        access: access of the attacks that it applies to; None for all.
        eps: radius of the ball, as a number; None for the largest.
        label: name or number of the class that it applies to; None for all.
        spelled: as the user wrote it.
    """

    value: float
    access: str | None = None
    eps: float | None = None
    label: str | None = None
    spelled: str = ""

    @property
    def what(self) -> str:
        """What is judged, for messages."""
        terms = self.spelled.rpartition("=")[0]
        return f"robust accuracy under {terms}" if terms else "robust accuracy"


@dataclass(frozen=True, slots=True)
class Gate:
    """The conditions of a CI job.

    Attributes:
        fail_under: thresholds of robust accuracy: the vote over re-evaluations, in the worst case over attacks.
        fail_under_clean: lowest accuracy of the defended classifier on clean images.
        fail_on: "estimate", or "interval" for the lower end of the Wilson interval.
        fail_on_flags: whether a run fails if a masking check fires.
        fail_on_weak: whether a run fails if a budget is weak.
        require_access: accesses that the attacks of a run must include.
        accept_access: accesses that are enough for a threshold although they do not attack the defence.
    """

    fail_under: tuple[Threshold, ...] = ()
    fail_under_clean: float | None = None
    fail_on: FailOn = "estimate"
    fail_on_flags: bool = False
    fail_on_weak: bool = False
    require_access: tuple[str, ...] = ()
    accept_access: tuple[str, ...] = ()

    @property
    def judges(self) -> bool:
        """Whether there is any condition."""
        thresholds = self.fail_under or self.fail_under_clean is not None
        return bool(thresholds or self.fail_on_flags or self.fail_on_weak or self.require_access)


def parse_gate(
    fail_under: Sequence[str],
    fail_under_clean: float | None,
    fail_on: FailOn,
    *,
    fail_on_flags: bool,
    fail_on_weak: bool,
    require_access: Sequence[str],
    accept_access: Sequence[str],
) -> Gate:
    """The conditions that the options set (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    thresholds: list[Threshold] = []
    for text in fail_under:
        with collecting(problems):
            thresholds.append(parse_threshold(text))
    for option, names in (("--require-access", require_access), ("--accept-access", accept_access)):
        for name in names:
            if name not in get_args(Access):
                problems.append(UsageError(f"{option} {name} does not exist", suggestion(name, get_args(Access))))
    raise_all(problems)
    accesses = tuple(require_access), tuple(accept_access)
    return Gate(tuple(thresholds), fail_under_clean, fail_on, fail_on_flags, fail_on_weak, *accesses)


def parse_threshold(text: str) -> Threshold:
    """A threshold as the user writes it: 0.5, or ACCESS, EPS and class:NAME joined by @, then =0.5 (UsageError)."""
    terms, _, number = text.rpartition("=")
    access = label = None
    eps: float | None = None
    try:
        value = float(number)
        for term in filter(None, terms.split("@")):
            if term in get_args(Access):
                access = term
            elif term.startswith(CLASS):
                label = term.removeprefix(CLASS)
            else:
                eps = number_of(term)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--fail-under {text} is not a threshold", HINT) from error
    if not 0 <= value <= 1:
        raise UsageError(f"--fail-under {text} is not between 0 and 1", HINT)
    if access is not None and label is not None:
        raise UsageError(f"--fail-under {text} names an access and a class", "classes are judged over all attacks")
    return Threshold(value, access, eps, label, text)


def number_of(eps: str) -> float:
    """A radius as a number (ValueError if the text is not a number)."""
    number, slash, divisor = eps.partition("/")
    return float(number) / (float(divisor) if slash else 1.0)


def refuse_in_advance(gate: Gate, specs: Sequence[AttackSpec], defenses: Sequence[str]) -> None:
    """Refuse a run that cannot meet the conditions, before it starts (UsageError)."""
    accesses = {
        spec.access
        for spec in specs
        if not spec.control and any(spec.access in DEFENSES[name].accesses for name in defenses)
    }
    if gate.fail_under and not accesses & {*THROUGH_THE_DEFENSE, *gate.accept_access}:
        raise UsageError(
            "--fail-under needs attacks through the defence, and this run has none",
            "add --attack pgd@white-box, or accept less with --accept-access transfer",
        )
    if lacking := [name for name in gate.require_access if name not in accesses]:
        raise UsageError(
            f"--require-access {lacking[0]}, and this run has no such attack", f"add --attack NAME@{lacking[0]}"
        )


def failed_conditions(report: Report, gate: Gate, missing: Sequence[str] = ()) -> list[str]:
    """The conditions that a run does not meet, one sentence each; a run that is not complete meets none.

    Args:
        report: report of the run.
        gate: the conditions.
        missing: shards and images that a merge did not find.
    """
    if not gate.judges:
        return []
    failed = [f"the run is not complete, so it cannot pass: {each}" for each in missing]
    if not report.complete and not failed:
        failed = ["the run is not complete, so it cannot pass: images, attacks or controls are missing"]
    if gate.fail_under:
        failed += failed_thresholds(report, gate)
    if gate.fail_under_clean is not None:
        clean = report.headline.clean if report.headline else None
        failed += below(clean.vote if clean else None, gate.fail_under_clean, CLEAN, gate.fail_on)
    judged = judged_threats(report)
    for access in gate.require_access:
        if not judged or any(access not in threat.access for threat in judged):
            failed.append(f"no {access} attack was made in every ball")
    fatal = [flag for flag in report.flags if flag.fired and (gate.fail_on_flags or flag.name in ALWAYS_FATAL)]
    failed += [f"check {flag.name}: {flag.what}" for flag in fatal]
    if gate.fail_on_weak:
        failed += [f"weak budget: {sentence}" for sentence in report.weak]
    return failed


def judged_threats(report: Report) -> list[ThreatResult]:
    """The balls of the headline's defence that have attacks other than controls."""
    headline = report.headline
    defense = headline.defense if headline else None
    return [threat for one in report.defenses if one.defense == defense for threat in one.threats if threat.attacks]


def failed_thresholds(report: Report, gate: Gate) -> list[str]:
    """The thresholds that the robust accuracy misses."""
    headline = report.headline
    if headline is None:
        return [f"there is no {each.what} to compare with {each.value:g}" for each in gate.fail_under]
    failed = []
    if not headline.through_defense and not set(headline.access) & set(gate.accept_access):
        failed.append(
            "no attack of this run went through the defence, so no threshold can be passed (--accept-access transfer "
            "accepts that)"
        )
    for each in gate.fail_under:
        failed += below(judged_rate(report, headline, each), each.value, each.what, gate.fail_on)
    return failed


def judged_rate(report: Report, headline: Headline, threshold: Threshold) -> Rate | None:
    """The robust accuracy that a threshold applies to; None if it was not measured."""
    radius = headline.eps_value if threshold.eps is None else threshold.eps
    threats = [
        threat
        for threat in judged_threats(report)
        if threat.norm == headline.norm and math.isclose(threat.eps_value, radius, rel_tol=1e-6)
    ]
    if not threats:
        return None
    (threat, *_) = threats
    if threshold.label is not None:
        classes = [one for one in threat.classes if threshold.label in (one.name, str(one.label))]
        return classes[0].defended_attacked if classes else None
    if threshold.access is None:
        return threat.worst_case.vote if threat.worst_case else None
    return next((one.accuracy.vote for one in threat.by_access if one.access == threshold.access), None)


def missed_by(report: Report, gate: Gate, defense: str, threat: ThreatResult, row: AttackRow | None) -> list[str]:
    """The thresholds that one attack misses, or the worst case over all attacks, one sentence each.

    Args:
        report: of the run.
        gate: the conditions.
        defense: that was attacked; thresholds judge only that of the headline.
        threat: the ball.
        row: the attack, which thresholds of its access judge; None for the worst case, which all others judge.
    """
    headline = report.headline
    if headline is None or defense != headline.defense or threat.norm != headline.norm:
        return []
    missed = []
    for each in gate.fail_under:
        radius = headline.eps_value if each.eps is None else each.eps
        is_judged = each.label is None and each.access == (row.access if row else None)
        if not is_judged or not math.isclose(threat.eps_value, radius, rel_tol=1e-6):
            continue
        found = row_rate(row) if row else threat.worst_case.vote if threat.worst_case else None
        before = " and the attacks before it" if row and row.skipped else ""
        what = f"accuracy under {row.attack}@{row.access}{before}" if row else each.what
        missed += below(found, each.value, what, gate.fail_on)
    return missed


def missed_clean(report: Report, gate: Gate, one: DefenseResult) -> list[str]:
    """A sentence if a defence is the one in the headline and its clean accuracy is below the threshold."""
    if gate.fail_under_clean is None or report.headline is None or report.headline.defense != one.defense:
        return []
    return below(one.clean.vote if one.clean else None, gate.fail_under_clean, CLEAN, gate.fail_on)


def row_rate(row: AttackRow) -> Rate | None:
    """The accuracy under an attack; images that it skipped, because earlier attacks had broken them, count as wrong."""
    if not row.skipped:
        return row.defended.vote if row.defended else None
    return rate(row.defended.vote.right if row.defended else 0, row.run_on + len(row.skipped))


def below(found: Rate | None, limit: float, what: str, fail_on: FailOn) -> list[str]:
    """A sentence with accuracy, limit, n and interval if an accuracy is below its limit or was not measured."""
    if found is None:
        return [f"there is no {what} to compare with {limit:g}"]
    value = found.low if fail_on == "interval" else found.value
    end = " (lower end of the 95 % interval)" if fail_on == "interval" else ""
    measured = f"{found.right} of {counted(found.n, 'image')}, 95 % interval {found.low:.3f} to {found.high:.3f}"
    return [f"{what} is {value:.3f}{end}, below {limit:g} ({measured})"] if value < limit else []
