"""What a benchmark will do and how long it takes, before the work; with ``--budget``, chosen for a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.budget import RESERVE, TimePlan, plan_time, recorded_plan, seconds_of, weak_plan, widths
from cmap_cli.benchmarking.cost import Cost, CostModel, forecast_of, thorough_span
from cmap_cli.benchmarking.events import BenchmarkPlan, Callbacks
from cmap_cli.benchmarking.folder import find_finished_tasks
from cmap_cli.benchmarking.pictures import load_images, refuse_unlabelled
from cmap_cli.benchmarking.settings import AnySettings, BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark, parse_budget, prepare_benchmark, recorded_benchmark_settings
from cmap_cli.data.catalogue import match_classes
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import Team

MEASURING = "measuring how long this takes"
RESIZED = "images of another size are resized and cropped"


@dataclass(frozen=True)
class PlannedBenchmark:
    """A benchmark before its work.

    Attributes:
        prepared: what is run.
        team: the processes of the job.
        folder: of the output.
        plan: what was reported; None if it was not asked for.
        costs: measured for it; None if nothing was.
        deadline: of ``time.monotonic()``, when the work has to end; None without a budget.
    """

    prepared: PreparedBenchmark
    team: Team
    folder: Path
    plan: BenchmarkPlan | None
    costs: CostModel | None
    deadline: float | None


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
    """Load everything, choose what a budget leaves open, and report the plan; arguments as of ``benchmark``.

    Args:
        dataset: its name.
        settings: of the run.
        fixed: of these, what a budget does not choose.
        shard: of this process.
        out: the output folder; None for one of the user's cache.
        budget: the time; None for as long as it takes.
        overwrite: whether the folder's run is forgotten.
        dry_run: whether only the plan is wanted.
        tell: whom.
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
    prepared, plan, costs = plan_within(prepared, dataset, settings, fixed, folder, seconds, deadline, overwrite, tell)
    return PlannedBenchmark(prepared, team, folder, plan, costs, deadline)


def announce_plan(
    prepared: PreparedBenchmark,
    folder: Path,
    shard: Shard,
    team: Team,
    overwrite: bool,
    dry_run: bool,
    tell: Callbacks,
) -> tuple[BenchmarkPlan | None, CostModel | None]:
    """Measure the cost of the run and report it; only in the first process, and only if it is wanted.

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
) -> BenchmarkPlan:
    """Report to the caller what will be done and how long it takes."""
    campaign = prepared.campaign
    finished = set() if overwrite else find_finished_tasks(folder, prepared.settings, campaign)
    own = campaign.tasks(shard)
    remaining = [task for task in own if task.key not in finished]
    cost = Cost(forecast_of(costs, remaining).left(), thorough_span(costs))
    done = len(own) - len(remaining)
    plan = BenchmarkPlan(prepared, folder, shard, len(own), len(campaign.tasks()), done, cost, time_plan)
    if tell.on_plan is not None:
        tell.on_plan(plan)
    return plan


def plan_within(
    prepared: PreparedBenchmark,
    dataset: str,
    settings: BenchmarkSettings,
    fixed: Collection[str],
    folder: Path,
    seconds: float,
    deadline: float,
    overwrite: bool,
    tell: Callbacks,
) -> tuple[PreparedBenchmark, BenchmarkPlan, CostModel]:
    """Choose images, steps and draws for a time, or take what an earlier run in the folder has chosen for it.

    Args:
        prepared: with all images.
        dataset: its name.
        settings: of the user, of whom ``fixed`` are not changed.
        fixed: see ``settings``.
        folder: of the output.
        seconds: the time, which ends at ``deadline`` of ``time.monotonic()``.
        deadline: see ``seconds``.
        overwrite: whether the folder's run is forgotten.
        tell: whom.

    Raises:
        UsageError: the time is too short, or the folder was planned for another.
    """
    tell.on_phase(MEASURING)
    costs = CostModel(prepared.campaign)
    selected = None if overwrite else recorded_plan(folder, seconds)
    if selected is None:
        selected = plan_time(costs, settings, fixed, seconds, deadline - time.monotonic())
    options: dict[str, Any] = {name: value for name, value in selected.items() if name not in fixed}
    prepared = with_settings(prepared, [dataset], dataclasses.replace(settings, **options))
    about = {"plan": {"seconds": seconds, "chosen": selected}, "items": [one.name for one in prepared.campaign.items()]}
    prepared = dataclasses.replace(prepared, provenance=prepared.provenance | about)
    costs = CostModel(prepared.campaign, costs.timed)
    chosen = TimePlan(seconds, selected, widths(len(prepared.campaign.dataset)), weak_plan(prepared))
    return prepared, announce_costs(prepared, folder, WHOLE, overwrite, costs, tell, chosen), costs


def with_settings(prepared: PreparedBenchmark, names: Sequence[str], settings: AnySettings) -> PreparedBenchmark:
    """The same models with other images, budgets and re-evaluations."""
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
