"""Chooses images, steps and draws for a given time on this device."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.benchmarking.campaign import CONTROL_IMAGES
from cmap_cli.benchmarking.cost import CostModel
from cmap_cli.benchmarking.documents import read_benchmark
from cmap_cli.benchmarking.report.statistics import wilson_interval
from cmap_cli.benchmarking.settings import BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark
from cmap_cli.benchmarking.weakness import (
    FEW_DISRUPTION_STEPS,
    FEW_EVALUATIONS,
    FEW_QUERIES,
    FEW_STEPS,
    REFERENCE_DISRUPTION_STEPS,
    REFERENCE_EVALUATIONS,
    REFERENCE_QUERIES,
    REFERENCE_STEPS,
    TriedAttack,
    weak_settings,
)
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import UsageError
from cmap_cli.runs.forecast import Span
from cmap_cli.runs.settings import SETTINGS_FILE
from cmap_cli.runs.shard import WHOLE, Shard

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600}
RESERVE = 10.0
"""Seconds that are reserved for reading the records and writing the report."""
SMALLEST = {
    "n": 2,
    "control_images": 2,
    "attack_steps": 5,
    "reevaluations": 1,
    "eot": 1,
    "queries": 25,
    "disruption_steps": 50,
}
REFERENCE_DRAWS = 20
LADDER: tuple[tuple[str, int], ...] = (
    ("n", 4),
    ("attack_steps", 10),
    ("reevaluations", 3),
    ("n", 16),
    ("control_images", 4),
    ("queries", 50),
    ("disruption_steps", 200),
    ("attack_steps", 20),
    ("reevaluations", 5),
    ("queries", 200),
    ("n", 25),
    ("attack_steps", FEW_STEPS),
    ("reevaluations", FEW_EVALUATIONS),
    ("control_images", 8),
    ("disruption_steps", FEW_DISRUPTION_STEPS),
    ("queries", FEW_QUERIES),
    ("eot", 5),
    ("n", 100),
    ("control_images", CONTROL_IMAGES),
    ("attack_steps", REFERENCE_STEPS),
    ("reevaluations", REFERENCE_EVALUATIONS),
    ("eot", REFERENCE_DRAWS),
    ("disruption_steps", REFERENCE_DISRUPTION_STEPS),
    ("queries", REFERENCE_QUERIES),
    ("n", 500),
)
"""Settings in the order in which they are increased while there is time: first images, then the attacks' strength."""


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Settings that were chosen for a time, and the precision that they give.

    Attributes:
        seconds: the given time.
        chosen: the settings, by field name; ``n`` is the largest number of images that the time may be enough for.
        least: number of images that the time is enough for even at the upper end of the estimate; None if n is given
            by the user.
        widths: width of the 95 % interval in points, if no image stays correct and if half of them do.
        weak: budgets that the report will call weak whatever the results, a sentence each.
    """

    seconds: float
    chosen: Mapping[str, int]
    least: int | None
    widths: tuple[float, float]
    weak: tuple[str, ...]


def parse_duration(text: str) -> float:
    """Seconds of "90s", "10m" or "2h" (UsageError for anything else)."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--budget {text} is not a duration", "write 90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]


def seconds_of(budget: str | float, shard: Shard) -> float:
    """The time of a run in seconds (UsageError: not a duration, or other processes do a part of the run)."""
    if shard != WHOLE:
        raise UsageError(
            "--budget plans for one process, and this one does a part of a run",
            "plan with --budget and --dry-run, then give each part the settings that it prints",
        )
    return parse_duration(budget) if isinstance(budget, str) else float(budget)


def chosen_by_user(settings: BenchmarkSettings) -> set[str]:
    """The fields that --budget could choose and that have another value than their default: chosen by the user."""
    return {name for name in SMALLEST if getattr(settings, name) != getattr(BenchmarkSettings(), name)}


def plan_time(
    costs: CostModel, settings: BenchmarkSettings, fixed: Collection[str], seconds: float, left: float
) -> dict[str, int]:
    """Choose the settings that are not fixed so that the run ends in time, even at the upper end of the estimate.

    If the smallest plan fits only at the lower end of its estimate, it is chosen, and the run may be cut short.

    Args:
        costs: times of a campaign with all images.
        settings: settings of the user.
        fixed: fields that the user has chosen.
        seconds: the whole time.
        left: the part of it that is left for attacks and evaluations.

    Raises:
        UsageError: the smallest plan takes longer even at the lower end of its estimate.
    """
    available, used = len(costs.campaign.dataset), used_fields(costs)
    chosen = {name: value for name, value in SMALLEST.items() if name in used and name not in fixed}
    if "n" in chosen:
        chosen["n"] = min(chosen["n"], available)
    least = span_of(costs, settings, chosen)
    if least.low > left:
        raise UsageError(
            f"--budget of {seconds:g} s is too short: {plan_text(chosen)} take {least.low:.0f} s or more here",
            "a longer --budget, fewer attacks (--attack) or a quicker --preset",
        )
    for name, wanted in LADDER:
        value = min(wanted, available) if name == "n" else wanted
        if name not in chosen or value <= chosen[name]:
            continue
        more = chosen | {name: value}
        if span_of(costs, settings, more).high <= left:
            chosen = more
        elif name == "n":  # as many as there is time for, before anything else is increased
            chosen = with_most_images(costs, settings, chosen, value, left)
    return with_most_images(costs, settings, chosen, available, left) if "n" in chosen else chosen


def with_most_images(
    costs: CostModel, settings: BenchmarkSettings, chosen: Mapping[str, int], most: int, left: float
) -> dict[str, int]:
    """The settings with as many images as there is time for, at most ``most``."""
    fitting = most_images(chosen["n"], most, lambda n: span_of(costs, settings, {**chosen, "n": n}).high <= left)
    return {**chosen, "n": fitting}


def with_possible_images(
    costs: CostModel, settings: BenchmarkSettings, chosen: Mapping[str, int], left: float
) -> dict[str, int]:
    """The settings with as many images as there is time for at the lower end of the estimate."""
    if "n" not in chosen:
        return dict(chosen)
    available = len(costs.campaign.dataset)
    fitting = most_images(chosen["n"], available, lambda n: span_of(costs, settings, {**chosen, "n": n}).low <= left)
    return {**chosen, "n": fitting}


def most_images(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest number from ``low`` to ``high`` that fits, by bisection; ``low`` if none does."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def used_fields(costs: CostModel) -> frozenset[str]:
    """The settings that change how long these attacks and defences take."""
    campaign = costs.campaign
    names = {item.spec.name for item in campaign.items() if item.spec is not None}
    used = {"n"}
    used |= {"control_images"} if campaign.with_controls else set()
    stepping = {"hammer", "mdi-pgd"} | (set() if campaign.budget.paper else {"pgd"})
    used |= {"attack_steps"} if names & stepping else set()
    randomised = any(DEFENSES[name].is_randomised for name in campaign.defenses.names)
    used |= {"reevaluations"} if randomised else set()
    gradients = any(
        spec.through_defense and ATTACKS[spec.name].needs_gradients and spec.access != "adaptive"
        for spec in campaign.specs
    )
    used |= {"eot"} if randomised and gradients and not campaign.budget.paper else set()
    used |= {"queries"} if "square" in names else set()
    used |= {"disruption_steps"} if "disruption" in names else set()
    return frozenset(used)


def span_of(costs: CostModel, settings: BenchmarkSettings, chosen: Mapping[str, int]) -> Span:
    """How long a run takes with these settings instead of the campaign's."""
    campaign, own = costs.campaign, costs.campaign.budget
    budget = dataclasses.replace(
        own,
        steps=chosen.get("attack_steps", own.steps),
        eot=chosen.get("eot", own.eot),
        queries=chosen.get("queries", own.queries),
        disruption=chosen.get("disruption_steps", own.disruption),
    )
    n = chosen.get("n", settings.n or len(campaign.dataset))
    smaller = dataclasses.replace(
        campaign,
        dataset=campaign.dataset.select(range(n)),
        control_images=chosen.get("control_images", campaign.control_images),
    )
    total = Span()
    for item in smaller.items():
        reevaluations = chosen.get("reevaluations", campaign.reevaluations)
        total += costs.task(item, budget, reevaluations) * len(smaller.images(item))
    return total


def widths(n: int) -> tuple[float, float]:
    """Widths of the 95 % interval of n images, in points: if no image stays correct, and if half of them do."""
    none, half = (wilson_interval(right, n) for right in (0, n // 2))
    return 100 * (none[1] - none[0]), 100 * (half[1] - half[0])


def plan_text(chosen: Mapping[str, Any]) -> str:
    """The planned settings as text: "16 images, 20 PGD steps"."""
    words = {
        "n": ("image", "images"),
        "attack_steps": ("step of PGD", "steps of PGD"),
        "eot": ("draw per gradient", "draws per gradient"),
        "queries": ("query of Square", "queries of Square"),
        "disruption_steps": ("step of disruption", "steps of disruption"),
        "reevaluations": ("re-evaluation", "re-evaluations"),
        "control_images": ("image for controls", "images for controls"),
    }
    return ", ".join(f"{chosen[name]} {words[name][chosen[name] != 1]}" for name in words if name in chosen)


def weak_plan(prepared: PreparedBenchmark) -> tuple[str, ...]:
    """The budgets that the report of this run will call weak whatever the results, a sentence each."""
    campaign = prepared.campaign
    attacks = [
        TriedAttack(name, item.spec.name, item.spec.access)
        for item in campaign.items()
        if item.spec is not None and not item.spec.control
        for name in campaign.evaluated(item)
    ]
    return tuple(dict.fromkeys(weak_settings(attacks, campaign.defenses.names, prepared.settings)))


def recorded_plan(folder: Path, seconds: float) -> dict[str, int] | None:
    """The settings that an earlier run with the same time has chosen in a folder; None if there are none.

    Raises:
        UsageError: it had another time.
    """
    if not (folder / SETTINGS_FILE).exists():
        return None
    return chosen_before(read_benchmark(folder).provenance, folder, seconds)


def chosen_before(provenance: Mapping[str, Any], folder: Path, seconds: float) -> dict[str, int] | None:
    """The settings chosen for a time, from a run's provenance; None if there are none, UsageError for another time."""
    plan = provenance.get("plan")
    if not isinstance(plan, dict) or not isinstance(plan.get("chosen"), dict):
        return None
    if plan.get("seconds") != seconds:
        raise UsageError(
            f"{folder} was planned for {plan.get('seconds'):g} s, not for {seconds:g} s",
            "the same --budget continues it; another needs another --out, or --overwrite",
        )
    return {str(name): int(value) for name, value in plan["chosen"].items()}
