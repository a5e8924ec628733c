"""The verdict of a report: whether the defence improves accuracy, in sentences chosen by the intervals."""

from __future__ import annotations

from collections.abc import Sequence

from cmap_cli.benchmarking.report.statistics import Accuracy, Rate
from cmap_cli.benchmarking.report.values import DefenseResult, Headline
from cmap_cli.benchmarking.report.words import percent

WIDE = 0.2  # width of an interval above which a run cannot show that there is no difference
INFORMED = "an attacker who knows the defence"
UNINFORMED = "an attacker who does not know the defence"
APPROXIMATE = "an attacker with a one-step substitute for the defence"


def find_verdict(
    headline: Headline | None, undefended_clean: Rate | None, defenses: Sequence[DefenseResult]
) -> tuple[str, ...]:
    """Up to four sentences: attackers who know the defence, who do not, who have a substitute for it; clean images.

    Two accuracies count as different if their 95 % intervals do not overlap. This is a cautious comparison, because
    both are measured on the same images.
    """
    if headline is None:
        return ("No attack was evaluated: nothing is known about robustness.",)
    if headline.defense == "none":
        return (f"Without a defence, {rate_words(headline.accuracy.vote)} stay correct under attack.",)
    threats = (threat for one in defenses if one.defense == headline.defense for threat in one.threats)
    threat = next(one for one in threats if (one.norm, one.eps) == (headline.norm, headline.eps))
    sentences = [
        f"Nothing is known about {INFORMED}: no attack of this run went through {headline.defense}."
        if threat.informed is None
        else compare_with_bare(headline.defense, INFORMED, threat.informed, threat.undefended),
    ]
    if threat.uninformed is not None:
        sentences.append(compare_with_bare(headline.defense, UNINFORMED, threat.uninformed, threat.undefended))
    surrogate = next((one.accuracy for one in threat.by_access if one.access == "surrogate"), None)
    if surrogate is not None:
        sentences.append(compare_with_bare(headline.defense, APPROXIMATE, surrogate, threat.undefended))
    clean = headline.clean.vote if headline.clean else None
    if clean and undefended_clean and clean.high < undefended_clean.low:
        fall = f"from {percent(undefended_clean.value)} to {percent(clean.value)}"
        sentences.append(f"On clean images {headline.defense} lowers accuracy {fall}.")
    return tuple(sentences)


def compare_with_bare(defense: str, attacker: str, accuracy: Accuracy, bare: Rate | None) -> str:
    """Whether the defence is better than the bare classifier on attacked images."""
    found = accuracy.vote
    if bare is None:
        return (
            f"Against {attacker}, {rate_words(found)} stay correct; the bare classifier was not attacked, so nothing "
            f"is known about what {defense} adds."
        )
    fall = f"from {percent(bare.value)} to {percent(found.value)}"
    if found.low > bare.high:
        return f"Against {attacker}, {defense} raised accuracy {fall} in this run."
    if found.high < bare.low:
        return f"Against {attacker}, {defense} lowers accuracy {fall}."
    pair = f"{percent(found.value)} with it, {percent(bare.value)} without"
    if max(found.high - found.low, bare.high - bare.low) > WIDE:
        return f"{found.n} images are too few to tell whether {defense} adds anything against {attacker}: {pair}."
    return f"{defense} adds nothing measurable against {attacker}: {pair}, and the 95 % intervals overlap."


def rate_words(rate: Rate) -> str:
    """A count and its share."""
    return f"{rate.right} of {rate.n} images ({percent(rate.value)})"
