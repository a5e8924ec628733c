"""``benchmark`` and ``attack``: settings in, one result out; the command line only renders them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.checks import write_checked_report
from cmap_cli.benchmarking.chunks import run_campaign
from cmap_cli.benchmarking.cost import Cost, measure_cost
from cmap_cli.benchmarking.documents import Successes
from cmap_cli.benchmarking.export import count_successes, export_images, write_sheet
from cmap_cli.benchmarking.folder import BenchmarkFolder
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.settings import AttackSettings, BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark, prepare
from cmap_cli.errors import UsageError
from cmap_cli.runs.merge import merge_folder
from cmap_cli.runs.progress import Part, write_part
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard
from cmap_cli.runs.team import Team

UNLABELLED = "images without labels are attacked away from what the classifier sees in them"
RESIZED = "images of another size are resized and cropped to the model's"

OnProgress = Callable[[int, int], None]
"""Called with the number of chunks that are done, those of earlier runs included, and of all chunks."""
OnMessage = Callable[[str], None]
"""Called with a warning."""


@dataclass(frozen=True)
class BenchmarkPlan:
    """What will be done, and about how long it takes on this device.

    Attributes:
        prepared: the run, with its settings and device.
        folder: where it is written.
        shard: of this process.
        chunks: of this shard; ``all_chunks`` of the run.
        cost: of this shard.
    """

    prepared: PreparedBenchmark
    folder: Path
    shard: Shard
    chunks: int
    all_chunks: int
    cost: Cost


OnPlan = Callable[[BenchmarkPlan], None]


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark wrote.

    Attributes:
        folder: with records, attacked images and report.
        settings: as benchmark.json holds them.
        report: None for a dry run, for a shard, and in the processes of torchrun that do not lead.
        plan: of a dry run; None if it was not asked for.
        shard: of this process.
        chunks: of this shard.
        records: the file of this shard's records; None for a dry run.
        team: the processes of the job.
    """

    folder: Path
    settings: dict[str, Any]
    report: Report | None
    plan: BenchmarkPlan | None
    shard: Shard
    chunks: int
    records: Path | None
    team: Team


@dataclass(frozen=True)
class AttackRunResult:
    """What an attack on a data set wrote.

    Attributes:
        folder: with images, floats and manifest.
        settings: as benchmark.json holds them.
        successes: None where ``report`` of :class:`BenchmarkResult` is.
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
    shard: Shard | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    on_message: OnMessage | None = None,
    **options: Any,
) -> BenchmarkResult:
    """Attack a defended classifier, evaluate it again, and write a report with intervals.

    Args:
        dataset: "cifar10", "imagenet100:FOLDER", a folder of class folders, a CSV file with file,label, or arrays.
        settings: the options of ``cmap benchmark``.
        out: the output folder; None for one of the user's cache that these settings always get.
        shard: of the work; None for all of it, or the shard that torchrun gives this process.
        overwrite: forget what is in ``out``.
        dry_run: only estimate how long it takes.
        on_plan: called before the work starts with what will be done; estimating takes a few seconds.
        on_progress: called after every chunk of images.
        on_message: called with warnings.
        **options: fields of :class:`~cmap_cli.benchmarking.settings.BenchmarkSettings` to change in ``settings``.

    Raises:
        UsageError: a setting is wrong, images have no labels, or ``out`` holds a run with other settings.
        WeightsError: a model or classifier cannot be loaded.
        OutOfSpaceError: the disk is full; the same call continues.
    """
    chosen = dataclasses.replace(settings or BenchmarkSettings(), **options)
    own = launched_shard() or WHOLE if shard is None else shard
    prepared, team = prepare([dataset], chosen, own)
    if not prepared.campaign.dataset.labelled:
        raise UsageError(
            f"{dataset} has no labels, and accuracy needs them", "--labels FILE.csv, or a folder of class folders"
        )
    folder = prepared.default_folder() if out is None else Path(out)
    plan = announce(prepared, folder, own, team, dry_run=dry_run, on_plan=on_plan, on_message=on_message)
    work = prepared.campaign.work_of(own)
    result = BenchmarkResult(folder, prepared.settings, None, plan, own, len(work), None, team)
    if dry_run:
        return result
    with open_folder(prepared, folder, own, team, overwrite=overwrite) as results:
        part = Part(own, len(prepared.campaign.work()), len(work))
        write_part(folder, part)
        run_campaign(prepared.campaign, results, on_progress)
        write_part(folder, dataclasses.replace(part, finished=True))
        records = results.journal.path
    team.exchange(None)
    report = None
    if team.leads and not team.partial:
        merge_folder(folder, final=True)
        report = write_checked_report(folder)
    return dataclasses.replace(result, records=records, report=report)


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
    on_image: Callable[[str], None] | None = None,
    **options: Any,
) -> AttackRunResult:
    """Make adversarial images: floats without loss, PNG files, and what classifier and defence see in them.

    Args:
        images: data sets, files, folders or patterns, as ``cmap attack`` takes them.
        out: the output folder.
        settings: the options of ``cmap attack``.
        shard: as in :func:`benchmark`, as are overwrite, dry_run, on_plan, on_progress and on_message.
        overwrite: see ``shard``.
        dry_run: see ``shard``.
        on_plan: see ``shard``.
        on_progress: see ``shard``.
        on_message: see ``shard``.
        on_image: called with the name of each PNG file, relative to ``out``.
        **options: fields of :class:`~cmap_cli.benchmarking.settings.AttackSettings` to change in ``settings``.

    Raises:
        CmapError: as :func:`benchmark`; images without labels are attacked away from the classifier's prediction.
    """
    names = [images] if isinstance(images, str) else list(images)
    if not names:
        raise UsageError("there are no images to attack", "cmap attack cifar10 --out DIR")
    own, folder = (launched_shard() or WHOLE) if shard is None else shard, Path(out)
    prepared, team = prepare(names, dataclasses.replace(settings or AttackSettings(), **options), own)
    if on_message and not prepared.campaign.dataset.labelled:
        on_message(UNLABELLED)
    plan = announce(prepared, folder, own, team, dry_run=dry_run, on_plan=on_plan, on_message=on_message)
    result = AttackRunResult(folder, prepared.settings, None, (), plan, own, team)
    if dry_run:
        return result
    written, campaign = [], prepared.campaign
    with open_folder(prepared, folder, own, team, overwrite=overwrite) as results:
        part = Part(own, len(campaign.work()), len(campaign.work_of(own)))
        write_part(folder, part)
        run_campaign(campaign, results, on_progress)
        for line in export_images(campaign, results):
            written.append(line.png)
            if on_image is not None:
                on_image(line.png)
        write_part(folder, dataclasses.replace(part, finished=True))
    team.exchange(None)
    result = dataclasses.replace(result, images=tuple(written))
    if team.partial or not team.leads:
        return result
    merge_folder(folder, final=True)
    write_sheet(folder, prepared.provenance["classes"])
    return dataclasses.replace(result, successes=count_successes(folder))


def open_folder(
    prepared: PreparedBenchmark, folder: Path, shard: Shard, team: Team, *, overwrite: bool
) -> BenchmarkFolder:
    """The output folder, which the leading process makes first."""
    with team.leader_first():
        return BenchmarkFolder(
            folder, prepared.settings, prepared.provenance, overwrite=team.forgets(overwrite), shard=shard
        )


def announce(
    prepared: PreparedBenchmark,
    folder: Path,
    shard: Shard,
    team: Team,
    *,
    dry_run: bool,
    on_plan: OnPlan | None,
    on_message: OnMessage | None,
) -> BenchmarkPlan | None:
    """Measure what the run will cost and tell the caller; only in the process that leads, and if it is wanted."""
    if on_message is not None and prepared.campaign.dataset.resized:
        on_message(RESIZED)
    if not team.leads or (on_plan is None and not dry_run):
        return None
    cost = measure_cost(prepared.campaign)
    own, work = len(prepared.campaign.work_of(shard)), len(prepared.campaign.work())
    plan = BenchmarkPlan(
        prepared, folder, shard, own, work, dataclasses.replace(cost, seconds=cost.seconds * own / work)
    )
    if on_plan is not None:
        on_plan(plan)
    return plan
