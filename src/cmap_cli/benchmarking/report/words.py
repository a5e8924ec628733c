"""The sentences of a report: the headline, its warnings, and what the numbers do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import DefenseResult, Headline, Report

KNOWLEDGE = {
    "transfer": "made on the bare classifier, by an attacker who does not know about the defence",
    "surrogate": "made through a one-step substitute for the defence",
    "bpda": "made through the defence, its gradient replaced by an approximation (BPDA)",
    "white-box": "made through the defence, with the gradient of its own optimisation",
    "adaptive": "made against the objective of the defence itself",
    "black-box": "made with queries to the defended classifier, without gradients",
}
NOT_THROUGH = "No attack of this run went through the defence."
TOLERANCE = "the stored images are further from the clean images than eps allows"


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
    smoothed = ", with a smoothed objective in the backward pass" if budget.get("smoothing") else ""
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
        f"{rate.right} of {rate.n} images of {subject(settings)} {shielded}, are still classified correctly under "
        f"{attacks} within {ball}, made with {listed(access)} access. This is an upper bound: attacks that were not "
        "run can only lower it."
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
        found.append("No defence was evaluated: these are the numbers of the bare classifier.")
    elif not headline.through_defense:
        found.append(
            f"{NOT_THROUGH} The number shows how well the defence removes perturbations that were made without it. It "
            "does not show what an attacker achieves who knows about the defence."
        )
    found.extend(weakened(defenses))
    if settings.get("protocol") == "paper":
        found.append(
            "Published protocol (surrogate only): it reproduces the paper's evaluation, without an end-to-end attack."
        )
    if not complete:
        found.append("The run is not finished: worst cases cover only images with results of every attack.")
    if predicted:
        found.append(
            f"{predicted} images have no label: the bare classifier's prediction on the clean image is used instead, "
            "so that the bare classifier is never wrong on it."
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
                f"{one.defense} lowers the worst case within {threat.norm} {threat.eps}: {percent(bare.value)} "
                f"({interval(bare)}) of the images stay correct with the classifier alone, {percent(defended.value)} "
                f"({interval(defended)}) with {one.defense}.{overlap}"
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
        "lower it. It is not a certificate.",
        "CMAP is randomised and optimises at inference. RobustBench does not admit such defences, and AutoAttack's "
        "standard version is not made for them: do not compare the numbers with that leaderboard.",
        "The intervals (Wilson, 95 %) cover the choice of images. They do not cover the strength of the attacks or "
        "the choice of the classifier.",
        "Votes and averages are over the stated number of draws; other latents give slightly different numbers.",
    ]
    if unchanged:
        limits.append(
            f"If an attack fails it returns the clean image, which is evaluated and marked unchanged: {unchanged} of "
            f"{images} attacked images are unchanged, so not all of these images are perturbed."
        )
    if untried:
        limits.append(f"Not tried in this run: {listed(untried)} access.")
    if not any(row.through_defense for row in rows):
        limits.append(f"{NOT_THROUGH} Defences of this kind lost most of their robustness under attacks that did.")
    if "surrogate" in tried:
        limits.append("A surrogate is a substitute for the defence; robustness to it is not white-box robustness.")
    if settings.get("n"):
        limits.append(f"All numbers are measured on {settings['n']} images of one data set with one seed.")
    return tuple(limits)


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun: "1 step", "20 steps"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"
