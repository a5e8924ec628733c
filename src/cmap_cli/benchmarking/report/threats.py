"""Results of one defence within one ball: each attack, and the worst case over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmap_cli.benchmarking.report.classes import class_results, find_failures
from cmap_cli.benchmarking.report.records import CLEAN, GatheredRecords, Observed, RecordCondition, finite
from cmap_cli.benchmarking.report.statistics import (
    Accuracy,
    DrawOutcome,
    accuracy,
    rate_of_true,
    right_every_time,
    worst_outcome,
)
from cmap_cli.benchmarking.report.values import (
    AccessResult,
    AttackCost,
    AttackRow,
    Gradient,
    Resubmission,
    ThreatResult,
)

ROUNDING = 1e-5  # of float32 pixels: relative, and a tenth of it absolute


@dataclass(frozen=True, slots=True)
class Ball:
    """A ball around each image."""

    norm: str
    eps: str
    eps_value: float


def ball_of(condition: RecordCondition) -> Ball:
    """The ball of a condition that is not clean."""
    return Ball(condition.norm or "", condition.eps or "", condition.eps_value)


def attacks_on(gathered: GatheredRecords, defense: str, settings: Mapping[str, Any]) -> list[RecordCondition]:
    """The attacks on a defence, including controls: by ball, then in the order of the command, then by name."""
    asked = [str(name) for name in settings.get("attacks", ())]

    def order(condition: RecordCondition) -> tuple[str, float, str, int, str]:
        place = asked.index(condition.name) if condition.name in asked else len(asked)
        return condition.norm or "", condition.eps_value, condition.eps or "", place, condition.name

    return sorted((one for one in gathered.observed if one.defense == defense and one.attack != CLEAN), key=order)


def undefended_rights(
    gathered: GatheredRecords, threat: Ball, attack: str | None = None, *, control: bool = False
) -> dict[int, bool]:
    """Whether the bare classifier is right on images of attacks that do not depend on a defence.

    These are transfer attacks, random noise, and attacks with the defence "none". With several attacks an image is
    right only if it is right under all of them; images that lack results of an attack are left out.
    """
    by_attack: dict[str, dict[int, bool]] = {}
    left_out: dict[str, set[int]] = {}
    for one, observed in gathered.observed.items():
        if one.on_classifier and ball_of(one) == threat and one.control == control and attack in (None, one.attack):
            rights = by_attack.setdefault(one.name, {})
            for image, right in observed.bare.items():
                rights[image] = right and rights.get(image, True)
            for image in observed.skipped:
                left_out.setdefault(one.name, set()).add(image)
    reached = [rights.keys() | left_out.get(name, set()) for name, rights in by_attack.items()]
    found = {}
    for image in reached_by_all(reached):
        seen = [rights[image] for rights in by_attack.values() if image in rights]
        if len(seen) == len(by_attack) or not all(seen):  # left out only where another attack was enough
            found[image] = all(seen)
    return found


def worst_outcomes(gathered: GatheredRecords, conditions: Sequence[RecordCondition]) -> dict[int, DrawOutcome]:
    """The result of each image in the worst case over the conditions, for images with results under all of them.

    An image that an attack skipped is included if it is wrong in every draw under another attack: nothing is worse.
    """
    seen = [gathered.observed[one] for one in conditions]
    found = {}
    for image in reached_by_all(one.reached for one in seen):
        outcomes = [one.outcomes[image] for one in seen if image in one.outcomes]
        if outcomes and (len(outcomes) == len(seen) or worst_outcome(outcomes).mean == 0):
            found[image] = worst_outcome(outcomes)
    return found


def reached_by_all(seen: Iterable[Collection[int]]) -> list[int]:
    """The images that are in every collection."""
    images = [set(one) for one in seen]
    return sorted(set.intersection(*images)) if images else []


def worst_case(gathered: GatheredRecords, conditions: Sequence[RecordCondition]) -> Accuracy | None:
    """The accuracies in the worst case over the conditions; None if no image has results under all of them."""
    return accuracy(worst_outcomes(gathered, conditions).values())


def by_access(gathered: GatheredRecords, attacks: Sequence[RecordCondition]) -> tuple[AccessResult, ...]:
    """The worst case over the attacks with each access, in the order of the attacks."""
    names = dict.fromkeys(one.access or "" for one in attacks)
    found = ((name, worst_case(gathered, [one for one in attacks if (one.access or "") == name])) for name in names)
    return tuple(AccessResult(name, accuracy) for name, accuracy in found if accuracy)


def attack_row(gathered: GatheredRecords, condition: RecordCondition) -> AttackRow:
    """One row of the table."""
    observed = gathered.observed[condition]
    unaware = undefended_rights(gathered, ball_of(condition), condition.attack, control=condition.control)
    allowed = condition.eps_value * (1 + ROUNDING) + 0.1 * ROUNDING
    return AttackRow(
        attack=condition.attack,
        access=condition.access or "",
        through_defense=condition.through_defense,
        control=condition.control,
        defended=accuracy(observed.outcomes.values()),
        undefended=rate_of_true(unaware.values()),
        bare=rate_of_true(observed.bare.values()),
        unchanged=len(observed.unchanged),
        reported_success=observed.reported,
        max_distance=finite(largest(observed.distances)),
        within_eps=all(value <= allowed for value in observed.distances),
        gradient=gradient(observed),
        cost=cost(observed),
        wrong=tuple(sorted(observed.votes)),
        skipped=tuple(sorted(observed.skipped)),
    )


def largest(distances: Sequence[float]) -> float | None:
    """The largest distance, NaN if any is NaN; None without images."""
    return max(distances, key=lambda value: math.inf if math.isnan(value) else value, default=None)


def gradient(observed: Observed) -> Gradient | None:
    """Means over the images that have a value; ``not_finite`` is a sum."""
    if not observed.gradients:
        return None

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in map(finite, values) if value is not None]
        return round(math.fsum(known) / len(known), 6) if known else None

    zeros, counts, cosines = zip(*observed.gradients, strict=True)
    return Gradient(mean(zeros), sum(counts), mean(cosines))


def cost(observed: Observed) -> AttackCost:
    """The sums, to a thousandth, so that they do not depend on the order."""
    return AttackCost(
        *(round(math.fsum(values), 3) for values in (observed.seconds, observed.forward, observed.backward))
    )


def resubmissions(attacked: Sequence[DrawOutcome], clean: Sequence[DrawOutcome]) -> tuple[Resubmission, ...]:
    """Accuracy by number of submissions, up to the smallest number of draws; empty for one draw."""
    most = min((one.draws for one in attacked), default=0)
    if most < 2:
        return ()
    control = clean if clean and min(one.draws for one in clean) >= most else ()
    return tuple(
        Resubmission(count, right_every_time(attacked, count), right_every_time(control, count) if control else None)
        for count in range(1, most + 1)
    )


def threat_results(
    gathered: GatheredRecords, defense: str, settings: Mapping[str, Any], name: Callable[[int], str]
) -> tuple[ThreatResult, ...]:
    """The results of a defence in every ball, by norm and eps; controls are separate and in no worst case.

    Args:
        gathered: the records.
        defense: name of the defence.
        settings: settings of the run.
        name: function from a class number to its name.
    """
    on_defense = attacks_on(gathered, defense, settings)
    clean = gathered.clean(defense)
    results = []
    for threat in dict.fromkeys(map(ball_of, on_defense)):
        within = [one for one in on_defense if ball_of(one) == threat]
        attacks = [one for one in within if not one.control]
        attacked = worst_outcomes(gathered, attacks)
        undefended = undefended_rights(gathered, threat)
        results.append(
            ThreatResult(
                norm=threat.norm,
                eps=threat.eps,
                eps_value=threat.eps_value,
                n=len(attacked),
                access=tuple(dict.fromkeys(one.access or "" for one in attacks)),
                worst_case=accuracy(attacked.values()),
                undefended=rate_of_true(undefended.values()),
                attacks=tuple(attack_row(gathered, one) for one in attacks),
                controls=tuple(attack_row(gathered, one) for one in within if one.control),
                classes=class_results(gathered, clean, attacked, undefended, name) if attacks else (),
                failures=find_failures(gathered, attacks, clean),
                by_access=by_access(gathered, attacks),
                informed=worst_case(gathered, [one for one in attacks if one.through_defense]),
                uninformed=worst_case(gathered, [one for one in attacks if one.access == "transfer"]),
                resubmissions=resubmissions(list(attacked.values()), list(clean.outcomes.values())),
            )
        )
    return tuple(results)
