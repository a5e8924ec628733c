"""``certify``: takes settings and returns one result, which the command line prints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmap_cli.benchmarking.budget import RESERVE, seconds_of
from cmap_cli.benchmarking.certificates import work
from cmap_cli.benchmarking.certificates.budget import (
    CertifyTimePlan,
    describe_time,
    plan_certify_time,
    recorded_certify_plan,
    with_chosen,
)
from cmap_cli.benchmarking.certificates.documents import CertificateReport
from cmap_cli.benchmarking.certificates.folder import CertificateFolder
from cmap_cli.benchmarking.certificates.report import write_certificate_report
from cmap_cli.benchmarking.certificates.settings import CertifySettings
from cmap_cli.benchmarking.certificates.setup import PreparedCertification, prepare_certify, with_certify_settings
from cmap_cli.benchmarking.events import ignore
from cmap_cli.defenses.smoothing import block_size, classify_blocks, noisy_samples
from cmap_cli.runs.merge import merge_folder
from cmap_cli.runs.progress import Part, write_part
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard
from cmap_cli.runs.team import Team

RESIZED = "images of another size are resized and cropped to the model's; certificates are for the resized images"


@dataclass(frozen=True)
class CertifyPlan:
    """The plan of a run, and its estimated time on this device.

    Attributes:
        prepared: the run, with its settings and device.
        folder: output folder.
        shard: shard of this process.
        certificates: number of certificates of this shard; ``all_certificates``: of the whole run.
        samples_per_second: measured speed.
        seconds: time of this shard, if every image needs the fewest samples and if every image needs the most.
        time: settings that were chosen for a budget; None without a budget.
    """

    prepared: PreparedCertification
    folder: Path
    shard: Shard
    certificates: int
    all_certificates: int
    samples_per_second: float
    seconds: tuple[float, float]
    time: CertifyTimePlan | None = None


@dataclass(frozen=True)
class CertifyResult:
    """The result of a run of ``cmap certify``.

    Attributes:
        folder: folder of records, TSV files and report.
        settings: the settings as in certify.json.
        report: the report; None for a dry run, for a shard, and in all processes of torchrun but the first.
        plan: the plan of a dry run; None otherwise, unless ``on_plan`` was given.
        shard: shard of this process.
        certificates: number of certificates of this shard.
        records: the file of this shard's records; None for a dry run.
        team: the processes of the job.
        unfinished: number of certificates for which the time of ``budget`` was too short.
    """

    folder: Path
    settings: dict[str, Any]
    report: CertificateReport | None
    plan: CertifyPlan | None
    shard: Shard
    certificates: int
    records: Path | None
    team: Team
    unfinished: int = 0


def certify(
    dataset: str = "cifar10",
    settings: CertifySettings | None = None,
    *,
    out: str | Path | None = None,
    budget: str | float | None = None,
    shard: Shard | None = None,
    references: Sequence[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[CertifyPlan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    **options: Any,
) -> CertifyResult:
    """Certify a denoised smoothed classifier with randomised smoothing, and write a report.

    Args:
        dataset: "cifar10", "imagenet100:FOLDER", a folder of class folders, a CSV file with file,label, or arrays.
        settings: the options of ``cmap certify``; None for the defaults.
        out: the output folder; None for a folder in the user's cache whose name follows from these settings.
        budget: time for this call, "10m" or seconds; chooses images and samples that are not given.
        shard: shard of the work; None for all of it, or the shard that torchrun gives this process.
        references: FILE or NAME=FILE, certificates of other programs for the report, in the columns of Cohen's program.
        overwrite: discard the results in ``out`` and start again.
        dry_run: only estimate the time.
        on_plan: called with the plan before the work starts.
        on_progress: called after every batch with the number of finished certificates and of all certificates.
        on_message: called with warnings.
        **options: fields of :class:`~cmap_cli.benchmarking.certificates.settings.CertifySettings` to change.

    Raises:
        UsageError: a setting is wrong, images have no labels, or ``out`` holds a run with other settings.
        WeightsError: a model or classifier cannot be loaded.
        OutOfSpaceError: the disk is full; the same call continues.
    """
    chosen = dataclasses.replace(settings or CertifySettings(), **options)
    own = launched_shard() or WHOLE if shard is None else shard
    prepared, team, folder, planned = prepare_run(dataset, chosen, own, out, budget, overwrite=overwrite)
    if on_message is not None and prepared.run.dataset.resized:
        on_message(RESIZED)
    units = [each for each in prepared.run.work() if own.takes(each[0])]
    plan = None
    if team.leads and (on_plan is not None or dry_run):
        plan = estimate_certification(prepared, folder, own, len(units), planned)
        (on_plan or ignore)(plan)
    result = CertifyResult(folder, prepared.settings, None, plan, own, len(units), None, team)
    if dry_run:
        return result
    records, left = write_records(prepared, folder, own, units, team, overwrite, on_progress, planned)
    team.exchange(None)
    result = dataclasses.replace(result, records=records, unfinished=left)
    if team.partial or not team.leads:
        return result
    merge_folder(folder, final=True)
    return dataclasses.replace(result, report=write_certificate_report(folder, references))


def prepare_run(
    dataset: str,
    settings: CertifySettings,
    shard: Shard,
    out: str | Path | None,
    budget: str | float | None,
    *,
    overwrite: bool,
) -> tuple[PreparedCertification, Team, Path, CertifyTimePlan | None]:
    """Load everything, and choose settings for the budget; arguments and errors as of :func:`certify`."""
    began = time.monotonic()
    seconds = None if budget is None else seconds_of(budget, shard)
    prepared, team = prepare_certify(dataset, settings, shard, all_images=seconds is not None)
    folder = prepared.default_folder(seconds) if out is None else Path(out)
    if seconds is None:
        return prepared, team, folder, None
    deadline = began + seconds - RESERVE
    prepared, planned = plan_certificates(prepared, dataset, settings, folder, seconds, deadline, overwrite=overwrite)
    return prepared, team, folder, planned


def write_records(
    prepared: PreparedCertification,
    folder: Path,
    shard: Shard,
    units: list[tuple[int, float]],
    team: Team,
    overwrite: bool,
    on_progress: Callable[[int, int], None] | None,
    planned: CertifyTimePlan | None,
) -> tuple[Path, int]:
    """Compute the certificates of a shard that are not finished, and write their records.

    Returns:
        The file of the records, and the number of certificates that are not finished because of the deadline.
    """
    with team.leader_first():
        results = CertificateFolder(
            folder, prepared.settings, prepared.provenance, overwrite=team.forgets(overwrite), shard=shard
        )
    report = on_progress or (lambda done, total: None)
    with results:
        part = Part(shard, len(prepared.run.work()), len(units))
        write_part(folder, part)
        there = results.resume()
        left = [each for each in units if each not in there]
        done = len(units) - len(left)

        def tell() -> None:
            report(done, len(units))

        tell()
        for record in work.certify_units(prepared.run, left, tell, planned.deadline if planned else None):
            results.append([record])
            done += 1
            tell()
        write_part(folder, dataclasses.replace(part, finished=True))
    return results.journal.path, len(units) - done


def plan_certificates(
    prepared: PreparedCertification,
    dataset: str,
    settings: CertifySettings,
    folder: Path,
    seconds: float,
    deadline: float,
    *,
    overwrite: bool,
) -> tuple[PreparedCertification, CertifyTimePlan]:
    """Choose images and samples for a time, or take those that an earlier run in the folder has chosen.

    Args:
        prepared: the run with all images.
        dataset: name of the data set.
        settings: settings of the user.
        folder: output folder.
        seconds: the time, in seconds.
        deadline: the end of this time, by ``time.monotonic()``.
        overwrite: whether the folder's run is discarded.

    Raises:
        UsageError: the time is too short, or the folder was planned for another time.
    """
    speed, available = measure_speed(prepared.run), len(prepared.run.dataset)
    chosen = None if overwrite else recorded_certify_plan(folder, seconds)
    if chosen is None:
        chosen = plan_certify_time(settings, available, speed, seconds, deadline - time.monotonic())
    planned = with_certify_settings(prepared, dataset, with_chosen(settings, chosen))
    kept = {"seconds": seconds, "chosen": chosen}
    planned = dataclasses.replace(planned, provenance={**prepared.provenance, "plan": kept})
    return planned, describe_time(settings, chosen, len(planned.run.dataset), speed, seconds, deadline)


def estimate_certification(
    prepared: PreparedCertification, folder: Path, shard: Shard, count: int, planned: CertifyTimePlan | None = None
) -> CertifyPlan:
    """Estimate the shortest and the longest time of the run."""
    run = prepared.run
    speed = measure_speed(run)
    most = run.plan.selection + run.plan.samples
    fewest = most if run.plan.procedure == "cohen" else run.plan.selection + 16
    seconds = count * fewest / speed, count * most / speed
    return CertifyPlan(prepared, folder, shard, count, len(run.work()), speed, seconds, planned)


def measure_speed(run: work.Certification) -> float:
    """Samples per second, of one block."""
    image = run.dataset.batch(0, 1).x[0]
    rows = block_size(image.shape[1], image.shape[2], run.device)
    sigma = torch.full((rows,), run.sigmas[0])
    for _ in range(2):  # the first call is slower
        began = time.perf_counter()
        classify_blocks(run.classifier, noisy_samples(image, run.sigmas[0], 0, range(rows)), sigma, run.device)
        speed = rows / (time.perf_counter() - began)
    return speed
