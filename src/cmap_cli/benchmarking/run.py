"""``benchmark`` and ``attack``: take settings, return one result; the command line prints it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.budget import SMALLEST, chosen_by_user
from cmap_cli.benchmarking.checks import write_checked_report
from cmap_cli.benchmarking.documents import Successes, read_benchmark
from cmap_cli.benchmarking.events import BenchmarkPlan, Callbacks, OnMessage, OnPhase, OnPlan, OnProgress, ignore
from cmap_cli.benchmarking.export import count_successes, export_images, write_sheet
from cmap_cli.benchmarking.folder import BenchmarkFolder
from cmap_cli.benchmarking.loop import run_campaign
from cmap_cli.benchmarking.plan import PlannedBenchmark, announce_plan, plan_benchmark
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.settings import AttackSettings, BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark, prepare_benchmark
from cmap_cli.errors import UsageError
from cmap_cli.runs.merge import merge_folder
from cmap_cli.runs.progress import Part, write_part
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard
from cmap_cli.runs.team import Team

UNLABELLED = "images without labels are attacked away from what the classifier sees in them"
REPORTING, EXPORTING = "writing the report", "writing and scoring PNG files"


@dataclass(frozen=True)
class BenchmarkResult:
    """The result of a benchmark.

    Attributes:
        folder: folder of records, attacked images and report.
        settings: the settings as in benchmark.json.
        report: the report; None for a dry run, for a shard, and in all processes of torchrun but the first.
        plan: the plan of a dry run; None otherwise, unless ``on_plan`` was given.
        shard: shard of this process.
        tasks: number of tasks of this shard; a task is an image under one attack, or clean.
        records: the file of this shard's records; None for a dry run.
        team: the processes of the job.
        unfinished: number of tasks for which the time of ``budget`` was too short.
    """

    folder: Path
    settings: dict[str, Any]
    report: Report | None
    plan: BenchmarkPlan | None
    shard: Shard
    tasks: int
    records: Path | None
    team: Team
    unfinished: int = 0


@dataclass(frozen=True)
class AttackRunResult:
    """The result of an attack on a data set.

    Attributes:
        folder: folder of images, floats and manifest.
        settings: the settings as in benchmark.json.
        successes: counts of successes; None in the same cases as ``report`` of :class:`BenchmarkResult`.
        images: PNG files of this shard, relative to the folder.
        plan: as in :class:`BenchmarkResult`, as are shard and team.
    """

    folder: Path
    settings: dict[str, Any]
    successes: Successes | None
    images: tuple[str, ...]
    plan: BenchmarkPlan | None
    shard: Shard
    team: Team


def benchmark(
    dataset: str = "cifar10",
    settings: BenchmarkSettings | None = None,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    shard: Shard | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    on_message: OnMessage | None = None,
    on_phase: OnPhase | None = None,
    **options: Any,
) -> BenchmarkResult:
    """Attack a defended classifier, evaluate it again, and write a report with intervals.

    Args:
        dataset: "cifar10", "imagenet100:FOLDER", a folder of class folders, a CSV file with file,label, or arrays.
        settings: the options of ``cmap benchmark``; None for the defaults.
        out: the output folder; None for a folder in the user's cache whose name follows from these settings.
        budget: time for this call, "10m" or seconds; chooses images, steps and draws that have their default values.
        shard: shard of the work; None for all of it, or the shard that torchrun gives this process.
        overwrite: discard the results in ``out`` and start again.
        dry_run: only estimate the time.
        on_plan: called with the plan before the work starts; estimating its time takes a few seconds.
        on_progress: called at every call of a network with the current work and the time left.
        on_message: called with warnings.
        on_phase: called when a phase begins whose progress cannot be counted.
        **options: fields of :class:`~cmap_cli.benchmarking.settings.BenchmarkSettings` to change in ``settings``.

    Raises:
        UsageError: a setting is wrong, images have no labels, or ``out`` holds a run with other settings.
        WeightsError: a model or classifier cannot be loaded.
        OutOfSpaceError: the disk is full; the same call continues.
    """
    chosen = dataclasses.replace(settings or BenchmarkSettings(), **options)
    own = launched_shard() or WHOLE if shard is None else shard
    tell = Callbacks(on_plan, on_message, on_phase or ignore)
    fixed = {*options, *chosen_by_user(chosen)}
    run = plan_benchmark(dataset, chosen, fixed, own, out, budget, overwrite=overwrite, dry_run=dry_run, tell=tell)
    prepared, team, folder = run.prepared, run.team, run.folder
    tasks = prepared.campaign.tasks(own)
    result = BenchmarkResult(folder, prepared.settings, None, run.plan, own, len(tasks), None, team)
    if dry_run:
        return result
    with open_folder(prepared, folder, own, team, overwrite=overwrite) as results:
        part = Part(own, len(prepared.campaign.tasks()), len(tasks))
        write_part(folder, part)
        left = run_campaign(prepared.campaign, results, on_progress, costs=run.costs, deadline=run.deadline)
        result = dataclasses.replace(result, records=results.journal.path, unfinished=left)
        if left and run.settings is not None:
            result = keep_whole_images(result, results, run, dataset, tell.on_phase)
        write_part(folder, dataclasses.replace(part, finished=True))
    team.exchange(None)
    if team.partial or not team.leads:
        return result
    tell.on_phase(REPORTING)
    merge_folder(folder, final=True)
    return dataclasses.replace(result, report=write_checked_report(folder))


def keep_whole_images(
    result: BenchmarkResult, results: BenchmarkFolder, run: PlannedBenchmark, dataset: str, on_phase: OnPhase
) -> BenchmarkResult:
    """Reduce the run to the images that were finished in time, unless they are too few."""
    images = results.whole_images(run.prepared.campaign)
    if images < SMALLEST["n"]:
        return result
    on_phase(f"keeping the {images} images that the time sufficed for")
    kept = run.reduced(dataset, images)
    results.keep_first(images, kept.settings, kept.provenance)
    return dataclasses.replace(result, settings=kept.settings, tasks=len(kept.campaign.tasks()), unfinished=0)


def attack(
    images: str | Sequence[str],
    out: str | Path,
    settings: AttackSettings | None = None,
    *,
    shard: Shard | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    on_message: OnMessage | None = None,
    on_phase: OnPhase | None = None,
    on_image: Callable[[str], None] | None = None,
    **options: Any,
) -> AttackRunResult:
    """Make adversarial images: floats without loss, PNG files, and what classifier and defence see in them.

    Args:
        images: data sets, files, folders or patterns, as ``cmap attack`` takes them.
        out: the output folder.
        settings: the options of ``cmap attack``; None for the defaults.
        shard: as in :func:`benchmark`.
        overwrite: as in :func:`benchmark`.
        dry_run: as in :func:`benchmark`.
        on_plan: as in :func:`benchmark`.
        on_progress: as in :func:`benchmark`.
        on_message: as in :func:`benchmark`.
        on_phase: as in :func:`benchmark`.
        on_image: called with the name of each PNG file, relative to ``out``.
        **options: fields of :class:`~cmap_cli.benchmarking.settings.AttackSettings` to change in ``settings``.

    Raises:
        CmapError: as :func:`benchmark`; images without labels are attacked away from the classifier's prediction.
    """
    names = [images] if isinstance(images, str) else list(images)
    if not names:
        raise UsageError("there are no images to attack", "cmap attack cifar10 --out DIR")
    own, folder = (launched_shard() or WHOLE) if shard is None else shard, Path(out)
    prepared, team = prepare_benchmark(names, dataclasses.replace(settings or AttackSettings(), **options), own)
    if on_message and not prepared.campaign.dataset.labelled:
        on_message(UNLABELLED)
    plan, costs = announce_plan(
        prepared, folder, own, team, overwrite, dry_run, Callbacks(on_plan, on_message, on_phase or ignore)
    )
    result = AttackRunResult(folder, prepared.settings, None, (), plan, own, team)
    if dry_run:
        return result
    with open_folder(prepared, folder, own, team, overwrite=overwrite) as results:
        part = Part(own, len(prepared.campaign.tasks()), len(prepared.campaign.tasks(own)))
        write_part(folder, part)
        run_campaign(prepared.campaign, results, on_progress, costs=costs)
        (on_phase or ignore)(EXPORTING)
        written = []
        for line in export_images(prepared.campaign, results):
            written.append(line.png)
            (on_image or ignore)(line.png)
        write_part(folder, dataclasses.replace(part, finished=True))
    team.exchange(None)
    return merge_attack(dataclasses.replace(result, images=tuple(written)))


def merge_attack(result: AttackRunResult) -> AttackRunResult:
    """Merge the results of all processes and draw the sheet, if this process is the one that does it."""
    if result.team.partial or not result.team.leads:
        return result
    merge_folder(result.folder, final=True)
    write_sheet(result.folder, read_benchmark(result.folder).provenance["classes"])
    return dataclasses.replace(result, successes=count_successes(result.folder))


def open_folder(
    prepared: PreparedBenchmark, folder: Path, shard: Shard, team: Team, *, overwrite: bool
) -> BenchmarkFolder:
    """Open the output folder; the first process creates it."""
    with team.leader_first():
        return BenchmarkFolder(
            folder, prepared.settings, prepared.provenance, overwrite=team.forgets(overwrite), shard=shard
        )
