"""Reads the records of a benchmark (schema "cmap.record/1") line by line and keeps what a report needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.report.statistics import DrawOutcome, draw_outcome, majority
from cmap_cli.benchmarking.specs import THROUGH_THE_DEFENSE
from cmap_cli.errors import UsageError
from cmap_cli.runs.journal import read_lines

RECORDS_FILE = "records.jsonl"
CLEAN = "clean"
NOISE = "noise"


@dataclass(frozen=True, slots=True)
class RecordCondition:
    """The condition of an evaluation; the attack "clean" has no access, norm and eps; noise is a control."""

    defense: str
    attack: str
    access: str | None
    norm: str | None
    eps: str | None
    eps_value: float
    control: bool

    @property
    def name(self) -> str:
        """The name of the attack on the command line: "autoattack@transfer"."""
        return f"{self.attack}@{self.access}"

    @property
    def is_defense_agnostic(self) -> bool:
        """Whether the images are the same for every defence."""
        return self.access in ("transfer", "surrogate") or self.attack == NOISE

    @property
    def through_defense(self) -> bool:
        """Whether the attack went through the defence."""
        return self.access in THROUGH_THE_DEFENSE and not self.is_defense_agnostic

    @property
    def on_classifier(self) -> bool:
        """Whether the attack is made on the bare classifier."""
        on_bare = (self.is_defense_agnostic and self.access != "surrogate") or self.defense == "none"
        return on_bare and self.attack != CLEAN


@dataclass(slots=True)
class Observed:
    """The results under one condition: a few small values per image instead of the whole record.

    Attributes:
        outcomes: result of the defended classifier for each image.
        skipped: images that the attack was not run on, because an earlier attack of its cascade has broken them.
        votes: vote on each image whose vote is wrong; None for a tie.
        bare: whether the bare classifier is right on the same pixels.
        unchanged: images for which the attack returned the clean image.
        reported: number of successes that the attack itself reports.
        distances: distances of all images.
        gradients: diagnostics of gradients in the records.
        seconds: seconds of all images; ``forward`` and ``backward`` are their passes.
    """

    outcomes: dict[int, DrawOutcome] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    votes: dict[int, int | None] = field(default_factory=dict)
    bare: dict[int, bool] = field(default_factory=dict)
    unchanged: set[int] = field(default_factory=set)
    reported: int = 0
    distances: list[float] = field(default_factory=list)
    gradients: list[tuple[float | None, int, float | None]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def add(self, record: BenchmarkRecord) -> bool:
        """Add a record of this condition; returns False, without a change, if the image already has one."""
        image = record.image
        if image in self.outcomes or image in self.skipped:
            return False
        if record.broken_by is not None:
            self.skipped.add(image)
            return True
        self.outcomes[image] = draw_outcome(record.draws, record.label)
        if not self.outcomes[image].voted_right:
            self.votes[image] = majority(record.draws)
        self.bare[image] = record.undefended == record.label
        if record.unchanged:
            self.unchanged.add(image)
        self.reported += record.reported_success
        self.distances.append(math.nan if record.distance is None else record.distance)
        if gradient := record.gradient:
            self.gradients.append((gradient.zero, gradient.not_finite, gradient.cosine))
        self.seconds.append(record.seconds or 0)
        self.forward.append(record.forward or 0)
        self.backward.append(record.backward or 0)
        return True

    @property
    def reached(self) -> set[int]:
        """The images that the attack was run on or skipped."""
        return self.outcomes.keys() | self.skipped


@dataclass(slots=True)
class GatheredRecords:
    """All records of a run.

    Attributes:
        labels: true class by image.
        keys: stable name by image.
        observed: results by condition.
        predicted: images without a label; the classifier's prediction is used as their label.
        counts: number of records of each item, see :meth:`lacks`.
    """

    labels: dict[int, int] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    observed: dict[RecordCondition, Observed] = field(default_factory=dict)
    predicted: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def lacks(self, planned: Mapping[str, int]) -> bool:
        """Whether an item, also a control, has fewer records than planned."""
        return any(self.counts[item] < count for item, count in planned.items())

    def clean(self, defense: str) -> Observed:
        """The results of a defence on clean images."""
        return self.observed.get(RecordCondition(defense, CLEAN, None, None, None, 0.0, False), Observed())


def gather_records(path: Path) -> GatheredRecords:
    """Read all records.

    Raises:
        UsageError: there is no record, or a line is not a record (an incomplete last line is ignored).
    """
    gathered = GatheredRecords()
    for record in read_lines(path, BenchmarkRecord):
        evaluated = bool(record.draws) and record.undefended is not None
        if evaluated == (record.broken_by is not None) or (record.attack != CLEAN and record.eps_value is None):
            raise UsageError(f"{path} has a record of {record.key} under {record.attack} without draws or without eps")
        gathered.labels[record.image] = record.label
        gathered.keys[record.image] = record.key
        if record.label_is_prediction:
            gathered.predicted.add(record.image)
        gathered.counts[record.item] += gathered.observed.setdefault(condition(record), Observed()).add(record)
    if not gathered.observed:
        raise UsageError(f"{path} contains no records", "let `cmap benchmark` finish at least one image")
    return gathered


def condition(record: BenchmarkRecord) -> RecordCondition:
    """What the record was evaluated under."""
    if record.attack == CLEAN:
        return RecordCondition(record.defense, CLEAN, None, None, None, 0.0, False)
    return RecordCondition(
        defense=record.defense,
        attack=record.attack,
        access=record.access,
        norm=record.norm,
        eps=record.eps,
        eps_value=record.eps_value or 0.0,
        control=record.control or record.attack == NOISE,
    )


def finite(value: float | None) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None
