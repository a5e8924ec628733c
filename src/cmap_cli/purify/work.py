"""The work of :func:`cmap_cli.purify.run.purify_folder`, once its inputs are valid and its models are loaded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.core.memory import common_batch_size, patch_batch_size
from cmap_cli.core.types import Step, generates
from cmap_cli.data.inputs import Source
from cmap_cli.data.outputs import FORMATS, check_existing
from cmap_cli.data.sheets import write_comparison
from cmap_cli.files import make_folder
from cmap_cli.purify.checks import Request
from cmap_cli.purify.documents import FailedImage, ImageRecord
from cmap_cli.purify.estimate import expected_seconds, sized_jobs, survey
from cmap_cli.purify.events import (
    Failed,
    OnMessage,
    OnProgress,
    PatchInWork,
    PlannedModel,
    Progress,
    PurifyPlan,
    Survey,
)
from cmap_cli.purify.folder import ResultFolder
from cmap_cli.purify.job import Job, Jobs
from cmap_cli.purify.prepare import PreparedPurification
from cmap_cli.purify.record import comparisons
from cmap_cli.purify.settings import PurifySettings
from cmap_cli.purify.stream import purify_sources
from cmap_cli.purify.summary import Summary, summarise
from cmap_cli.runs.forecast import Forecast, Span
from cmap_cli.runs.merge import merge_folder
from cmap_cli.runs.progress import MOST_FAILURES, Part, read_parts, write_part
from cmap_cli.runs.settings import COMPARISON_FILE, MANIFEST_FILE, RUN_FILE
from cmap_cli.runs.shard import WHOLE
from cmap_cli.runs.team import Team

FAILED, PARTIAL = 1, 3
PATCH = "patch"
COMPARED = 24
"""Images of the comparison sheet."""


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """Numbers of images of one process, or of all."""

    written: int
    already_there: int
    failed: int
    failures: tuple[FailedImage, ...]

    @staticmethod
    def sum(each: Sequence[ImageCounts]) -> ImageCounts:
        """The numbers of all processes together."""
        failures = tuple(failure for one in each for failure in one.failures)[:MOST_FAILURES]
        written, there, failed = (
            sum(getattr(one, name) for one in each) for name in ("written", "already_there", "failed")
        )
        return ImageCounts(written, there, failed, failures)

    @property
    def exit_code(self) -> int:
        """0 done, 3 some images failed, 1 all of them."""
        if not self.failed:
            return 0
        return PARTIAL if self.written or self.already_there else FAILED


class PatchClock:
    """How long the rest takes, from the plan and from the batches that are done."""

    def __init__(self, plan: PurifyPlan) -> None:
        self.forecast = Forecast({PATCH: plan.patches(1)}, {PATCH: plan.survey.patches})
        self.batch_size = plan.batch_size
        self.began, self.waiting = time.monotonic(), 0

    def finish(self, patches: int) -> None:
        """Patches are done; those of a batch become known together, so they are counted together."""
        self.waiting += patches
        if self.waiting >= self.batch_size:
            now = time.monotonic()
            self.forecast.finish(PATCH, now - self.began, self.waiting)
            self.began, self.waiting = now, 0

    @property
    def left(self) -> Span | None:
        """None while nothing is known."""
        left = self.forecast.left()
        return left if left.high else None


@dataclass(frozen=True, slots=True)
class FolderRun:
    """A purification of files in progress.

    Attributes:
        out: the output folder.
        settings: of the purification.
        request: its inputs.
        team: the processes of the job.
        prepared: its models.
        on_message: see :func:`purify_folder`.
        on_progress: see :func:`purify_folder`.
    """

    out: Path
    settings: PurifySettings
    request: Request
    team: Team
    prepared: PreparedPurification
    on_message: OnMessage | None
    on_progress: OnProgress | None

    @property
    def sources(self) -> list[Source]:
        """The images of this process."""
        return self.request.sources

    @property
    def extension(self) -> str:
        """The extension of the files that are written."""
        return FORMATS[self.settings.format]

    @property
    def partial_shard(self) -> str | None:
        """The shard of this process where other processes, unknown to it, do the rest."""
        return str(self.request.shard) if self.team.partial else None

    def open_results(self, overwrite: bool) -> ResultFolder:
        """The output folder, for this process; images whose files have changed are forgotten.

        Raises:
            UsageError: a result would overwrite a file of another program, or the result of another image.
        """
        with self.team.leader_first():
            forgets = self.team.forgets(overwrite)
            begun = (self.out / RUN_FILE).exists
            if not (forgets or begun()):
                check_existing(self.request.found.sources, self.extension, self.out, begun)
            make_folder(self.out)
            results = ResultFolder(self.out, self.prepared.compared, overwrite=forgets, shard=self.request.shard)
        try:
            results.claim_places(self.sources, self.extension)
        except BaseException:
            results.close()
            raise
        results.forget_changed(self.sources)
        return results

    def plan(self, remaining: list[Source], *, measure: bool) -> tuple[PurifyPlan, Jobs]:
        """What will be done, and how; calls ``on_message`` with it.

        Args:
            remaining: images that are not done.
            measure: whether to measure how long a patch takes, which takes two steps of one batch of each model.
        """
        found = self.request.found
        looked = survey(self.prepared.jobs, remaining)
        of_all = looked if len(remaining) == len(found.sources) else survey(self.prepared.jobs, found.sources)
        jobs = sized_jobs(self.prepared.jobs, of_all, self.most)
        seconds = expected_seconds(jobs, looked) if measure else 0.0
        plan = PurifyPlan(
            already_there=len(self.sources) - len(remaining),
            models=planned_models(jobs, looked),
            device=str(jobs.last.device),
            reason=self.prepared.device.reason,
            precision=str(jobs.last.purifier.dtype).removeprefix("torch."),
            preset=self.settings.preset,
            batch_size=max((size for job in jobs.each for size in job.batches.values()), default=1),
            survey=looked,
            seconds_per_patch=seconds / max(1, looked.patches),
        )
        if self.on_message is not None:
            self.on_message(plan)
        return plan, jobs

    def most(self, job: Job, size: tuple[int, int]) -> int:
        """How many patches of that (height, width) every process of the team can purify at once."""
        fitting = patch_batch_size(job.purifier, job.device, self.team.sharers, size)
        return self.settings.batch_size or common_batch_size(self.team.exchange(fitting))

    def purify(self, results: ResultFolder, plan: PurifyPlan, jobs: Jobs) -> ImageCounts:
        """Purify, write and record what is not done."""
        found, sources = self.request.found, self.sources
        part = Part(self.request.shard, len(found.sources) + len(found.failures), len(sources))
        write_part(self.out, part)
        failures: list[FailedImage] = []
        failed = written = 0
        for outcome in self.outcomes(results, plan, jobs):
            if isinstance(outcome, Failed):
                failed += 1
                if len(failures) < MOST_FAILURES:
                    failures.append(FailedImage(source=outcome.source, error=outcome.error.message))
            else:
                written += 1
        listed = tuple({"source": failure.source, "error": failure.error} for failure in failures)
        write_part(self.out, dataclasses.replace(part, finished=True, failed=failed, failures=listed))
        return ImageCounts(written, plan.already_there, failed, tuple(failures))

    def outcomes(self, results: ResultFolder, plan: PurifyPlan, jobs: Jobs) -> Iterator[ImageRecord | Failed]:
        """The outcome of each image; calls ``on_progress`` with it."""
        tell = self.on_progress or (lambda progress: None)
        total, done, clock = len(self.sources), plan.already_there, PatchClock(plan)

        def on_step(step: Step, patch: PatchInWork) -> None:
            tell(Progress(total, done, clock.left, step=step, patch=patch))

        tell(Progress(total, done, clock.left))
        for failure in self.request.failures:
            tell(Progress(total, done, clock.left, failure=failure))
            yield failure
        callback = None if self.on_progress is None else on_step
        for outcome in purify_sources(jobs, self.sources, results, self.extension, callback):
            done += 1
            if isinstance(outcome, Failed):
                tell(Progress(total, done, clock.left, failure=outcome))
            else:
                clock.finish(outcome.tiles)
                tell(Progress(total, done, clock.left, image=outcome))
            yield outcome

    def gather(self, manifest: Path, manifests: list[Path]) -> Path:
        """One manifest from those of all processes, if this was all of the job; returns its path.

        Args:
            manifest: of this process.
            manifests: of all processes that have written to the folder.
        """
        if self.team.partial:
            return manifest
        if manifests != [self.out / MANIFEST_FILE] or read_parts(self.out):
            merge_folder(self.out, final=True)
        return self.out / MANIFEST_FILE

    def summarise(self, true_labels: dict[Path, str], compared: Jobs | None) -> Summary:
        """Summary of the manifest; writes comparison.png for jobs to compare with."""
        shard = self.request.shard if self.team.partial else WHOLE
        with ResultFolder(self.out, self.prepared.compared, shard=shard) as results:
            if compared is not None:
                shown = comparisons(compared, results, self.request.found.sources, COMPARED)
                write_comparison(self.out / COMPARISON_FILE, list(shown))
            return summarise(results.records(), true_labels)


def planned_models(jobs: Jobs, looked: Survey) -> tuple[PlannedModel, ...]:
    """The models that have something to do by a survey, all if there is nothing to do."""
    every = []
    for job in jobs.each:
        sizes = {size: count for (model, size), count in looked.sizes.items() if model == job.model}
        every.append(PlannedModel(job.model, job.purifier.config, sizes, generates(job.purifier.model)))
    return tuple(each for each in every if each.sizes) or tuple(every)
