"""What a benchmark reports while it runs: frozen records for the callbacks ``on_plan`` and ``on_progress``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.runs.forecast import Span
from cmap_cli.runs.shard import Shard

if TYPE_CHECKING:
    from cmap_cli.benchmarking.budget import TimePlan
    from cmap_cli.benchmarking.cost import Cost
    from cmap_cli.benchmarking.setup import PreparedBenchmark


@dataclass(frozen=True)
class BenchmarkPlan:
    """What will be done, and about how long it takes on this device.

    Attributes:
        prepared: the run, with its settings and device.
        folder: where it is written.
        shard: of this process.
        tasks: of this shard, an image under one attack or clean; ``all_tasks`` of the run.
        done: tasks of this shard that are finished already.
        cost: of what remains of this shard.
        time: what was chosen for --budget; None without it.
    """

    prepared: PreparedBenchmark
    folder: Path
    shard: Shard
    tasks: int
    all_tasks: int
    done: int
    cost: Cost
    time: TimePlan | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkProgress:
    """Something has happened: the loop begins, a network was called, a task is done.

    Attributes:
        done: tasks that are finished, those of earlier runs included.
        total: all tasks of this process.
        left: how long the rest will take.
        item: what is in work, "pgd@white-box 8/255"; "" before and between tasks.
        image: the number of its first image, from 1.
        images: how many are attacked at once.
        stage: "attack", or "evaluation" of what it made.
        passes: passes of the attacked module per image, or evaluations, that are done.
        planned: how many there will be, if the attack does not end early.
        step: calls of the consistency model within the pass, which are its optimisation steps and what follows them.
        steps: optimisation steps of a purification.
    """

    done: int
    total: int
    left: Span
    item: str = ""
    image: int = 0
    images: int = 0
    stage: str = ""
    passes: int = 0
    planned: int = 0
    step: int = 0
    steps: int = 0


OnPlan = Callable[[BenchmarkPlan], None]
OnProgress = Callable[[BenchmarkProgress], None]
OnMessage = Callable[[str], None]
"""Called with a warning."""
OnPhase = Callable[[str], None]
"""Called when something begins that cannot be counted, with what it is: "writing the report"."""


def ignore(_: object) -> None:
    """Do nothing: the callback for callers that gave none."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions of the caller that are called before and between the work."""

    on_plan: OnPlan | None
    on_message: OnMessage | None
    on_phase: OnPhase = ignore
