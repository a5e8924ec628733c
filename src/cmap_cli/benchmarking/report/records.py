"""Records of a benchmark (schema "cmap.record/1") read line by line into what a report needs of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.report.statistics import DrawOutcome, draw_outcome, majority
from cmap_cli.benchmarking.specs import THROUGH_THE_DEFENSE
from cmap_cli.errors import CmapError
from cmap_cli.runs.settings import Record

BENCHMARK_FILE = "benchmark.json"
RECORDS_FILE = "records.jsonl"
CLEAN = "clean"
NOISE = "noise"


@dataclass(frozen=True, slots=True)
class RecordCondition:
    """What one image is evaluated under; attack "clean" has neither access nor norm nor eps, noise is a control."""

    defense: str
    attack: str
    access: str | None
    norm: str | None
    eps: str | None
    eps_value: float
    control: bool

    @property
    def name(self) -> str:
        """The attack as one asks for it: "autoattack@transfer"."""
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
        """Whether the attack knows of no defence at all."""
        on_bare = (self.is_defense_agnostic and self.access != "surrogate") or self.defense == "none"
        return on_bare and self.attack != CLEAN


@dataclass(slots=True)
class Observed:
    """The images seen under one condition: a few small values each, never the record.

    Attributes:
        outcomes: what the defended classifier made of each image.
        votes: its vote on the images where that was wrong; None for a tie.
        bare: whether the bare classifier was right on the same pixels.
        unchanged: images that the attack gave back clean.
        reported: how many the attack itself claims.
        distances: of all images.
        gradients: what the records say about gradients.
        seconds: costs of all images, as are forward and backward.
    """

    outcomes: dict[int, DrawOutcome] = field(default_factory=dict)
    votes: dict[int, int | None] = field(default_factory=dict)
    bare: dict[int, bool] = field(default_factory=dict)
    unchanged: set[int] = field(default_factory=set)
    reported: int = 0
    distances: list[float] = field(default_factory=list)
    gradients: list[tuple[float | None, int, float | None]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Take in a record of this condition; an image that is there already is left as it is."""
        image, label, draws = record["image"], record["label"], record["draws"]
        if image in self.outcomes:
            return
        self.outcomes[image] = draw_outcome(draws, label)
        if not self.outcomes[image].voted_right:
            self.votes[image] = majority(draws)
        self.bare[image] = record["undefended"] == label
        if record["unchanged"]:
            self.unchanged.add(image)
        self.reported += bool(record["reported_success"])
        self.distances.append(record["distance"])
        if gradient := record["gradient"]:
            self.gradients.append((gradient["zero"], gradient["not_finite"], gradient["cosine"]))
        for values, name in ((self.seconds, "seconds"), (self.forward, "forward"), (self.backward, "backward")):
            values.append(record[name] or 0)


@dataclass(slots=True)
class Gathered:
    """All records of a run.

    Attributes:
        labels: true class by image.
        keys: stable name by image.
        observed: what was seen, by condition.
        predicted: images without a label, for which the classifier's own prediction stands in.
    """

    labels: dict[int, int] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    observed: dict[RecordCondition, Observed] = field(default_factory=dict)
    predicted: set[int] = field(default_factory=set)

    def clean(self, defense: str) -> Observed:
        """The clean images in front of a defence."""
        return self.observed.get(RecordCondition(defense, CLEAN, None, None, None, 0.0, False), Observed())


def gather_records(path: Path) -> Gathered:
    """Read all records.

    Raises:
        CmapError: there is none, or a line other than a cut-off last one is no record.
    """
    gathered = Gathered()
    for number, record in enumerate(read_records(path), 1):
        try:
            gathered.labels[record["image"]] = record["label"]
            gathered.keys[record["image"]] = record["key"]
            if record.get("label_is_prediction"):
                gathered.predicted.add(record["image"])
            gathered.observed.setdefault(condition(record), Observed()).add(record)
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise CmapError(f"line {number} of {path} is no record of a benchmark: {error!r}") from error
    if not gathered.observed:
        raise CmapError(f"{path} holds no record yet", "let `cmap benchmark` finish at least one image")
    return gathered


def condition(record: Record) -> RecordCondition:
    """What the record was evaluated under."""
    if record["attack"] == CLEAN:
        return RecordCondition(record["defense"], CLEAN, None, None, None, 0.0, False)
    return RecordCondition(
        defense=record["defense"],
        attack=record["attack"],
        access=record["access"],
        norm=record["norm"],
        eps=record["eps"],
        eps_value=float(record["eps_value"]),
        control=bool(record["control"]) or record["attack"] == NOISE,
    )


def read_records(path: Path) -> Iterator[Record]:
    """The records one by one; a last line that a kill cut short is left out."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    if any(later.strip() for later in file):
                        raise CmapError(
                            f"line {number} of {path} is not JSON: {error}", "run the benchmark again to repair it"
                        ) from error
                    return
    except OSError as error:
        raise CmapError(
            f"{path} cannot be read: {error.strerror}", "--report-only takes the folder of a run"
        ) from error


def read_benchmark(folder: Path) -> dict[str, Any]:
    """The settings, provenance and flags of a run."""
    path = folder / BENCHMARK_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CmapError(
            f"{path} cannot be read: {error.strerror}", "--report-only takes the folder of a run"
        ) from error
    except ValueError as error:
        raise CmapError(f"{path} is not JSON: {error}", "run the benchmark again") from error
    if not isinstance(run, dict) or not str(run.get("schema", "")).startswith("cmap.benchmark/1"):
        raise CmapError(f"{path} is no cmap.benchmark/1", "it may come from another version of cmap")
    return run


def finite(value: float | None) -> float | None:
    """The number, None for what JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None
