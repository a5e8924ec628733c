"""The sentences of a report: the headline, its warnings, and what the numbers do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import DefenseResult, Headline, Report

KNOWLEDGE = {
    "transfer": "made on the bare classifier, by someone who knows nothing of the defence",
    "surrogate": "made through a one-step stand-in for the defence",
    "bpda": "made through the defence, its gradient replaced by an approximation (BPDA)",
    "white-box": "made through the defence, with the gradient of its own optimisation",
    "adaptive": "made against the objective of the defence itself",
    "black-box": "made with queries to the defended classifier, without gradients",
}
NOT_THROUGH = "No attack of this run went through the defence."
TOLERANCE = "the pixels written are further from the clean image than eps allows"


def percent(value: float) -> str:
    """A share as "61.0 %"."""
    return f"{100 * value:.1f} %"


def interval(rate: Rate) -> str:
    """The interval as "51.2 to 70.0 %"."""
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %"


def listed(words: Sequence[str], joint: str = "and") -> str:
    """A list as text: "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


def described_access(access: str, settings: Mapping[str, Any]) -> str:
    """What the attacker knows; for a white-box attack, how much of the optimisation the gradient covers."""
    words = KNOWLEDGE.get(access, f"made with access {access}")
    budget = settings.get("budget") or {}
    if access != "white-box" or "unroll" not in budget:
        return words
    unroll = budget["unroll"]
    reach = "through all its steps" if unroll is None else f"truncated to its last {unroll} steps"
    exact = "" if budget.get("smoothing") else ", exact"
    smoothed = ", kinks of the objective smoothed in the backward pass" if budget.get("smoothing") else ""
    return f"{words}{exact}, {reach}{smoothed}"


def headline_number(headline: Headline) -> str:
    """The headline's accuracy as text."""
    return f"Robust accuracy {percent(headline.accuracy.vote.value)}"


def headline_facts(headline: Headline) -> str:
    """The facts that belong to the headline: interval, images, attacks, access, and how the draws differ."""
    accuracy = headline.accuracy
    every, vote = accuracy.worst_of_n, accuracy.vote
    attacks = f"worst of {counted(len(headline.attacks), 'attack')}" if len(headline.attacks) > 1 else "one attack"
    return (
        f"95 % interval {interval(vote)}; {vote.right} of {counted(vote.n, 'image')}; {attacks}; access: "
        f"{', '.join(headline.access)}; {percent(accuracy.average)} on average over draws, {percent(every.value)} "
        f"({interval(every)}) right in every draw"
    )


def subject(settings: Mapping[str, Any]) -> str:
    """The images and the classifier, as far as the settings name them."""
    data = " ".join(str(settings[name]) for name in ("dataset", "split") if settings.get(name))
    return f"{data or 'the images'}, classified by {settings.get('classifier') or 'the classifier'}"


def title(report: Report) -> str:
    """What was measured, in one line."""
    settings = report.settings
    names = [one.defense for one in report.defenses]
    defenses = listed([name for name in names if name != "none"] or ["the bare classifier"])
    data = " ".join(str(settings[name]) for name in ("dataset", "split") if settings.get(name))
    count = f", {settings['n']} images" if settings.get("n") else ""
    return f"Robustness of {defenses} on {data or 'images'}{count}"


def headline_sentence(
    defense: str, rate: Rate, ball: str, names: Sequence[str], access: Sequence[str], settings: Mapping[str, Any]
) -> str:
    """What was attacked, with which access, and what the number does not show."""
    shielded = f"behind {defense}" if defense != "none" else "without a defence"
    attacks = f"the worst of {len(names)} attacks" if len(names) > 1 else f"the attack {names[0]}"
    return (
        f"{rate.right} of {rate.n} images of {subject(settings)} {shielded}, are still recognised under {attacks} "
        f"within {ball}, made with {listed(access)} access; an upper bound, which attacks that were not run can only "
        "lower."
    )


def find_warnings(
    headline: Headline | None,
    complete: bool,
    defenses: Sequence[DefenseResult],
    settings: Mapping[str, Any],
    predicted: int,
) -> tuple[str, ...]:
    """Warnings that a reader must know before the result, the most serious first."""
    found = []
    if headline is None:
        found.append("No attack was evaluated yet: there is no robust accuracy.")
    elif headline.defense == "none":
        found.append("No defence was evaluated: these are the numbers of the classifier by itself.")
    elif not headline.through_defense:
        found.append(
            f"{NOT_THROUGH} The number says how well the defence undoes perturbations that were made "
            "without it, not what an attacker achieves who knows of it."
        )
    found.extend(weakened(defenses))
    if settings.get("protocol") == "paper":
        found.append(
            "Published protocol (surrogate only): it reproduces the paper's evaluation, which is no end-to-end attack."
        )
    if not complete:
        found.append("The run is not finished: worst cases cover only the images that every attack has reached.")
    if predicted:
        found.append(
            f"{predicted} images have no label: the bare classifier's prediction on the clean image stands in for it, "
            "so that it is never wrong when clean."
        )
    outside = {
        f"{attack.attack}@{attack.access} at eps {threat.eps}"
        for defense in defenses
        for threat in defense.threats
        for attack in threat.attacks
        if not attack.within_eps
    }
    found.extend(f"{name} left the ball: {TOLERANCE}." for name in sorted(outside))
    return tuple(found)


def weakened(defenses: Sequence[DefenseResult]) -> list[str]:
    """A sentence for each defence and ball in which the bare classifier has a higher worst case."""
    found = []
    for one in defenses:
        for threat in one.threats:
            bare, defended = threat.undefended, threat.worst_case.vote if threat.worst_case else None
            if one.defense == "none" or bare is None or defended is None or defended.value >= bare.value:
                continue
            overlap = " The intervals overlap: chance may explain it." if defended.high >= bare.low else ""
            found.append(
                f"{one.defense} lowers the worst case within {threat.norm} {threat.eps}: the classifier alone keeps "
                f"{percent(bare.value)} ({interval(bare)}) of the images, with {one.defense} {percent(defended.value)} "
                f"({interval(defended)}) are left.{overlap}"
            )
    return found


def find_limits(defenses: Sequence[DefenseResult], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences about what the numbers do not show."""
    rows = [attack for defense in defenses for threat in defense.threats for attack in threat.attacks]
    tried = {row.access for row in rows}
    untried = [name for name in KNOWLEDGE if name not in tried]
    unchanged, images = sum(row.unchanged for row in rows), sum(row.run_on for row in rows)
    limits = [
        "Every robust accuracy is an upper bound: a stronger attack, more steps, restarts or random draws can only "
        "lower it. Nothing here is a certificate.",
        "CMAP is randomised and optimises at inference. RobustBench does not admit such defences, and AutoAttack's "
        "standard version is not meant for them: the numbers do not compare with that leaderboard.",
        "The intervals (Wilson, 95 %) cover the choice of images, not the strength of the attacks nor "
        "the choice of the classifier.",
        "Votes and averages are over the draws stated; other latents give slightly other numbers.",
    ]
    if unchanged:
        limits.append(
            f"Where an attack failed, the clean image comes back; it is scored as it is, and so marked: {unchanged} of "
            f"{images} attacked images are unchanged. That mixture is not a set of images that were all perturbed."
        )
    if untried:
        limits.append(f"Not tried in this run: {listed(untried)} access.")
    if not any(row.through_defense for row in rows):
        limits.append(f"{NOT_THROUGH} Defences of this kind have lost most of their robustness to attacks that did.")
    if "surrogate" in tried:
        limits.append("A surrogate is a stand-in for the defence; resisting it is not white-box robustness.")
    if settings.get("n"):
        limits.append(f"All is measured on {settings['n']} images of one data set with one seed.")
    return tuple(limits)


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun: "1 step", "20 steps"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
