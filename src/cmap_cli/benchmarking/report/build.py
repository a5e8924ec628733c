"""A report from the records of a benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmap_cli.benchmarking.documents import read_benchmark
from cmap_cli.benchmarking.report.examples import find_examples
from cmap_cli.benchmarking.report.records import CLEAN, RECORDS_FILE, GatheredRecords, gather_records
from cmap_cli.benchmarking.report.statistics import Rate, accuracy, rate_of_true
from cmap_cli.benchmarking.report.taxonomy import find_taxonomy
from cmap_cli.benchmarking.report.threats import attacks_on, cost, threat_results
from cmap_cli.benchmarking.report.values import (
    SCHEMA,
    AttackCost,
    DefenseResult,
    Headline,
    Report,
    ReportFlag,
    ThreatResult,
)
from cmap_cli.benchmarking.report.verdict import find_verdict
from cmap_cli.benchmarking.report.words import find_limits, find_warnings, headline_sentence
from cmap_cli.defenses.table import DEFENSES

if TYPE_CHECKING:  # what it imports needs torch, a report does not
    from cmap_cli.benchmarking.checks import Flag


def build_report(folder: Path, flags: Sequence[Flag] = ()) -> Report:
    """Compute the report of a finished or unfinished run.

    It depends on benchmark.json and on the set of records, not on their order. A few small values per record are kept
    in memory, never the records.

    Args:
        folder: the output folder of the run.
        flags: checks in addition to those in benchmark.json.

    Raises:
        CmapError: a file is missing or has other contents than expected.
    """
    run = read_benchmark(folder)
    settings, provenance = run.settings, run.provenance
    gathered = gather_records(folder / RECORDS_FILE)
    empty = Report(SCHEMA, False, None, (), None, (), (), total_cost(gathered), (), (), settings, provenance)
    defenses = tuple(
        DefenseResult(
            defense=name,
            clean=accuracy(gathered.clean(name).outcomes.values()),
            threats=threat_results(gathered, name, settings, empty.class_name),
            clean_wrong=tuple(sorted(gathered.clean(name).votes)),
        )
        for name in defense_names(gathered, settings)
    )
    undefended_clean = clean_of_classifier(gathered)
    headline = find_headline(defenses, undefended_clean, settings)
    complete = is_complete(gathered, settings) and not gathered.lacks(planned_records(provenance))
    shown = []
    if headline:
        shown = [
            one
            for one in attacks_on(gathered, headline.defense, settings)
            if not one.control and (one.norm, one.eps) == (headline.norm, headline.eps)
        ]
    found = [ReportFlag(one.name, one.fired, one.what, one.attack, one.checked) for one in run.flags]
    report = replace(
        empty,
        complete=complete,
        headline=headline,
        warnings=find_warnings(headline, complete, defenses, settings, len(gathered.predicted)),
        undefended_clean=undefended_clean,
        defenses=defenses,
        flags=tuple(found),
        examples=find_examples(folder / RECORDS_FILE, gathered, shown),
        limits=find_limits(defenses, settings),
        verdict=find_verdict(headline, undefended_clean, defenses),
        taxonomy=find_taxonomy(defenses),
    )
    return with_flags(report, flags)


def with_flags(report: Report, flags: Iterable[Flag]) -> Report:
    """The report with more flags; flags that fired come first, flags that had nothing to check last."""
    more = (ReportFlag(one.name, one.fired, one.what, None, one.checked) for one in flags)
    ranks = {"fired": 0, "nothing found": 1, "not run": 2}
    return replace(report, flags=tuple(sorted((*report.flags, *more), key=lambda flag: ranks[flag.state])))


def defense_names(gathered: GatheredRecords, settings: Mapping[str, Any]) -> list[str]:
    """The defences that have records, in the order of the command, then any others by name."""
    met = {one.defense for one in gathered.observed}
    asked = [str(name) for name in settings.get("defenses", ()) if name in met]
    return [*dict.fromkeys(asked), *sorted(met - set(asked))]


def clean_of_classifier(gathered: GatheredRecords) -> Rate | None:
    """The rate of the bare classifier on clean images, from the records of any defence."""
    rights: dict[int, bool] = {}
    for one, observed in gathered.observed.items():
        if one.attack == CLEAN:
            rights.update(observed.bare)
    return rate_of_true(rights.values())


def find_headline(
    defenses: Sequence[DefenseResult], undefended_clean: Rate | None, settings: Mapping[str, Any]
) -> Headline | None:
    """The worst case of cmap, else of the first defence, else of the bare classifier, within the largest eps."""
    attacked = [one for one in defenses if any(threat.worst_case for threat in one.threats)]
    if not attacked:
        return None
    chosen = min(attacked, key=lambda one: (one.defense != "cmap", one.defense == "none"))
    norm = settings.get("norm")
    threats = [threat for threat in chosen.threats if threat.worst_case]
    threat = max(threats, key=lambda one: (one.norm == norm, one.eps_value))
    return headline_of(chosen, threat, undefended_clean, settings)


def headline_of(
    defense: DefenseResult, threat: ThreatResult, undefended_clean: Rate | None, settings: Mapping[str, Any]
) -> Headline | None:
    """The headline of a worst case, with the values that belong to it."""
    if threat.worst_case is None:
        return None
    names = tuple(f"{attack.attack}@{attack.access}" for attack in threat.attacks)
    ball = f"{threat.norm} {threat.eps}"
    return Headline(
        defense=defense.defense,
        norm=threat.norm,
        eps=threat.eps,
        eps_value=threat.eps_value,
        protocol=str(settings.get("protocol", "end-to-end")),
        n=threat.n,
        accuracy=threat.worst_case,
        clean=defense.clean,
        undefended_clean=undefended_clean,
        undefended_attacked=threat.undefended,
        access=threat.access,
        attacks=names,
        through_defense=any(attack.through_defense for attack in threat.attacks),
        sentence=headline_sentence(defense.defense, threat.worst_case.vote, ball, names, threat.access, settings),
    )


def is_complete(gathered: GatheredRecords, settings: Mapping[str, Any]) -> bool:
    """Whether every defence has every image, clean and under every requested attack and eps that applies to it."""
    n = settings.get("n") or len(gathered.labels)
    if any(len(seen.reached) < n for one, seen in gathered.observed.items() if not one.control):
        return False
    seen = {(one.defense, one.name, one.eps) for one in gathered.observed}
    clean = {one.defense for one in gathered.observed if one.attack == CLEAN}
    return clean.issuperset(settings.get("defenses", ())) and all(
        (defense, attack, eps) in seen
        for defense in settings.get("defenses", ())
        for attack in settings.get("attacks", ())
        for eps in settings.get("eps", ())
        if defense in DEFENSES and attack.partition("@")[2] in DEFENSES[defense].accesses
    )


def planned_records(provenance: Mapping[str, Any]) -> dict[str, int]:
    """The planned number of records of each item, including controls; empty for folders of older versions."""
    planned = provenance.get("records")
    return (
        {name: count for name, count in planned.items() if isinstance(count, int)} if isinstance(planned, dict) else {}
    )


def total_cost(gathered: GatheredRecords) -> AttackCost:
    """The cost of all attacks; an attack that does not depend on the defence is counted once."""
    once: dict[tuple[object, ...], AttackCost] = {}
    for one, observed in gathered.observed.items():
        whose = "any" if one.is_defense_agnostic else one.defense
        key = (whose, one.attack, one.access, one.norm, one.eps, one.control)
        once[key] = max(
            once.get(key, AttackCost(0, 0, 0)), cost(observed), key=lambda cost: (cost.seconds, cost.forward)
        )
    parts = ([one.seconds for one in once.values()], [one.forward for one in once.values()])
    backward = [one.backward for one in once.values()]
    return AttackCost(*(round(math.fsum(values), 3) for values in (*parts, backward)))
