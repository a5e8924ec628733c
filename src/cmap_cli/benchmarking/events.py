"""The events of a running benchmark: frozen dataclasses for the callbacks ``on_plan`` and ``on_progress``."""

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
    """The plan of a benchmark, and its estimated time on this device.

    Attributes:
        prepared: the run, with its settings and device.
        folder: output folder.
        shard: shard of this process.
        tasks: number of tasks of this shard (an image under one attack, or clean); ``all_tasks``: of the whole run.
        done: number of tasks of this shard that are already finished.
        cost: estimated time of the remaining tasks of this shard.
        time: settings that --budget chose; None without --budget.
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
    """Progress of a benchmark: reported when the loop begins, when a network was called, and when a task is done.

    Attributes:
        done: number of finished tasks, including those of earlier runs.
        total: number of all tasks of this process.
        left: estimated time of the rest.
        item: the current attack, "pgd@white-box 8/255"; "" before and between tasks.
        image: number of the first image in work, from 1.
        images: number of images that are attacked at once.
        stage: "attack", or "evaluation" of the attacked images.
        passes: number of finished passes of the attacked module per image, or of finished evaluations.
        planned: number of passes or evaluations in all, if the attack does not end early.
        step: number of calls of the consistency model within the pass: optimisation steps and the calls after them.
        steps: number of optimisation steps of a purification.
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
"""Called at the start of work whose progress cannot be counted, with its name: "writing the report"."""


def ignore(_: object) -> None:
    """Do nothing: the default callback."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Functions of the caller that are called before and during the work."""

    on_plan: OnPlan | None
    on_message: OnMessage | None
    on_phase: OnPhase = ignore
