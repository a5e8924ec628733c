"""The plan of a benchmark and its estimated time; with ``--budget`` the settings are chosen for a time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.budget import (
    RESERVE,
    TimePlan,
    plan_time,
    recorded_plan,
    seconds_of,
    weak_plan,
    widths,
    with_possible_images,
)
from cmap_cli.benchmarking.cost import Cost, CostModel, forecast_of, thorough_span
from cmap_cli.benchmarking.events import BenchmarkPlan, Callbacks
from cmap_cli.benchmarking.folder import find_finished_tasks
from cmap_cli.benchmarking.pictures import load_images, refuse_unlabelled
from cmap_cli.benchmarking.settings import AnySettings, BenchmarkSettings
from cmap_cli.benchmarking.setup import (
    PreparedBenchmark,
    parse_budget,
    planned,
    prepare_benchmark,
    recorded_benchmark_settings,
)
from cmap_cli.data.catalogue import match_classes
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import Team

MEASURING = "measuring how long this takes"
RESIZED = "images of another size are resized and cropped"


@dataclass(frozen=True)
class PlannedBenchmark:
    """A planned benchmark.

    Attributes:
        prepared: the checked run with everything loaded.
        team: the processes of the job.
        folder: output folder.
        plan: the plan that was reported; None if none was requested.
        costs: measured times of the tasks; None if nothing was measured.
        deadline: time by ``time.monotonic()`` at which the work ends; None without a budget.
        settings: settings with the choices of the budget; None if the user has set the number of images.
    """

    prepared: PreparedBenchmark
    team: Team
    folder: Path
    plan: BenchmarkPlan | None
    costs: CostModel | None
    deadline: float | None
    settings: BenchmarkSettings | None = None

    def reduced(self, dataset: str, images: int) -> PreparedBenchmark:
        """The run with only the first images, those that were finished in time (``settings`` must not be None)."""
        assert self.settings is not None
        chosen = dataclasses.replace(self.settings, n=images)
        prepared, plan = with_settings(self.prepared, [dataset], chosen), self.prepared.provenance["plan"]
        return with_plan(prepared, {**plan, "chosen": {**plan["chosen"], "n": images}})


def plan_benchmark(
    dataset: str,
    settings: BenchmarkSettings,
    fixed: Collection[str],
    shard: Shard,
    out: str | Path | None,
    budget: str | float | None,
    *,
    overwrite: bool,
    dry_run: bool,
    tell: Callbacks,
) -> PlannedBenchmark:
    """Load everything, choose settings for the budget, and report the plan; arguments as of ``benchmark``.

    Args:
        dataset: name of the data set.
        settings: settings of the run.
        fixed: names of the settings that a budget does not choose.
        shard: shard of this process.
        out: the output folder; None for one in the user's cache.
        budget: the time; None for no limit.
        overwrite: whether the results in the folder are discarded.
        dry_run: whether only the plan is wanted.
        tell: the callbacks.
    """
    began = time.monotonic()
    seconds = None if budget is None else seconds_of(budget, shard)
    prepared, team = prepare_benchmark([dataset], settings, shard, all_images=seconds is not None)
    refuse_unlabelled(prepared.campaign.dataset, "accuracy")
    folder = prepared.default_folder(seconds) if out is None else Path(out)
    if seconds is None:
        plan, costs = announce_plan(prepared, folder, shard, team, overwrite, dry_run, tell)
        return PlannedBenchmark(prepared, team, folder, plan, costs, None)
    deadline = began + seconds - RESERVE
    run = PlannedBenchmark(prepared, team, folder, None, None, deadline)
    return plan_within(run, dataset, settings, fixed, seconds, overwrite, tell)


def announce_plan(
    prepared: PreparedBenchmark,
    folder: Path,
    shard: Shard,
    team: Team,
    overwrite: bool,
    dry_run: bool,
    tell: Callbacks,
) -> tuple[BenchmarkPlan | None, CostModel | None]:
    """Measure the cost of the run and report it; only in the first process, and only for a dry run or with on_plan.

    Raises:
        SettingsMismatchError: the folder holds records of other settings.
    """
    campaign = prepared.campaign
    if tell.on_message is not None and campaign.dataset.resized:
        height, width = campaign.dataset.image_size or (0, 0)
        tell.on_message(f"{RESIZED} to {width}×{height} pixels")
    if not team.leads or (tell.on_plan is None and not dry_run):
        return None, None
    tell.on_phase(MEASURING)
    costs = CostModel(campaign)
    return announce_costs(prepared, folder, shard, overwrite, costs, tell), costs


def announce_costs(
    prepared: PreparedBenchmark,
    folder: Path,
    shard: Shard,
    overwrite: bool,
    costs: CostModel,
    tell: Callbacks,
    time_plan: TimePlan | None = None,
    deadline: float = math.inf,
) -> BenchmarkPlan:
    """Report the plan and its time to the caller; the time is at most that until the deadline."""
    campaign = prepared.campaign
    finished = set() if overwrite else find_finished_tasks(folder, prepared.settings, campaign)
    own = campaign.tasks(shard)
    remaining = [task for task in own if task.key not in finished]
    left = forecast_of(costs, remaining).left().within(max(0.0, deadline - time.monotonic()))
    cost = Cost(left, thorough_span(costs))
    done = len(own) - len(remaining)
    plan = BenchmarkPlan(prepared, folder, shard, len(own), len(campaign.tasks()), done, cost, time_plan)
    if tell.on_plan is not None:
        tell.on_plan(plan)
    return plan


def plan_within(
    run: PlannedBenchmark,
    dataset: str,
    settings: BenchmarkSettings,
    fixed: Collection[str],
    seconds: float,
    overwrite: bool,
    tell: Callbacks,
) -> PlannedBenchmark:
    """Choose images, steps and draws for a time, or take those that an earlier run in the folder has chosen.

    Args:
        run: the run with all images, and the deadline.
        dataset: name of the data set.
        settings: settings of the user.
        fixed: names of the settings that are not changed.
        seconds: the time, which ends at the deadline.
        overwrite: whether the results in the folder are discarded.
        tell: the callbacks.

    Raises:
        UsageError: the time is too short, or the folder was planned for another time.
    """
    assert run.deadline is not None
    tell.on_phase(MEASURING)
    costs = CostModel(run.prepared.campaign)
    selected = None if overwrite else recorded_plan(run.folder, seconds)
    least = None if selected is None else selected.get("n")
    if selected is None:
        left = run.deadline - time.monotonic()
        cautious = plan_time(costs, settings, fixed, seconds, left)
        selected, least = with_possible_images(costs, settings, cautious, left), cautious.get("n")
    options: dict[str, Any] = {name: value for name, value in selected.items() if name not in fixed}
    resolved = dataclasses.replace(settings, **options)
    prepared = with_plan(with_settings(run.prepared, [dataset], resolved), {"seconds": seconds, "chosen": selected})
    costs = CostModel(prepared.campaign, costs.timed)
    chosen = TimePlan(seconds, selected, least, widths(len(prepared.campaign.dataset)), weak_plan(prepared))
    plan = announce_costs(prepared, run.folder, WHOLE, overwrite, costs, tell, chosen, run.deadline)
    kept = resolved if "n" in options else None
    return PlannedBenchmark(prepared, run.team, run.folder, plan, costs, run.deadline, kept)


def with_plan(prepared: PreparedBenchmark, plan: dict[str, Any]) -> PreparedBenchmark:
    """The run with the choices for a time in its provenance."""
    about = {**prepared.provenance, **planned(prepared.campaign), "plan": plan}
    return dataclasses.replace(prepared, provenance=about)


def with_settings(prepared: PreparedBenchmark, names: Sequence[str], settings: AnySettings) -> PreparedBenchmark:
    """The run with the same models and other images, budgets and re-evaluations."""
    campaign, before = prepared.campaign, prepared.campaign.dataset
    dataset = dataclasses.replace(
        load_images(names, settings),
        image_size=before.image_size,
        short_side=before.short_side,
        interpolation=before.interpolation,
    )
    classifier = campaign.classifier
    changed = dataclasses.replace(
        campaign,
        dataset=match_classes(dataset, classifier.classes, classifier.num_classes),
        budget=parse_budget(settings),
        reevaluations=settings.reevaluations,
        control_images=settings.control_images,
        chunk=min(campaign.chunk, len(dataset)),
    )
    return dataclasses.replace(
        prepared, campaign=changed, settings=recorded_benchmark_settings(settings, changed, prepared.loaded)
    )
