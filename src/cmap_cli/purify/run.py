"""Purify the images of files and folders into an output folder: what ``cmap purify`` does."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.data.inputs import image_size
from cmap_cli.errors import ImageError
from cmap_cli.purify.checks import Request, check_request
from cmap_cli.purify.documents import FailedImage, ImageRecord
from cmap_cli.purify.events import OnMessage, OnProgress, PurifyPlan
from cmap_cli.purify.settings import PurifySettings, with_options
from cmap_cli.purify.summary import Summary
from cmap_cli.runs.journal import read_lines
from cmap_cli.runs.settings import MANIFEST_FILE
from cmap_cli.runs.team import join_team

Input = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PurifyResult:
    """What a call of :func:`purify_folder` has done.

    Attributes:
        out: the output folder.
        manifest: file with one record per image; nothing is written in a dry run.
        settings: what run.json holds.
        shard: the part of the job that this call did, such as "2/4"; None for all of it.
        plan: what there was to do, and about how long it takes.
        dry_run: whether the call only planned.
        written: images purified by this call, with torchrun by all processes, as the numbers below.
        already_there: images purified by earlier runs.
        failed: images that could not be purified.
        failures: the first 1,000 of these.
        summary: counts and means over all images of the manifest; None in a dry run, and in processes of torchrun
            other than the first.
        seconds: the call took.
        exit_code: 0 done, 1 all images failed, 3 some failed; with torchrun the worst of all processes.
    """

    out: Path
    manifest: Path
    settings: dict[str, Any]
    shard: str | None
    plan: PurifyPlan
    dry_run: bool = False
    written: int = 0
    already_there: int = 0
    failed: int = 0
    failures: tuple[FailedImage, ...] = ()
    summary: Summary | None = None
    seconds: float = 0.0
    exit_code: int = 0

    def records(self) -> Iterator[ImageRecord]:
        """The records of the manifest, one per image."""
        return read_lines(self.manifest, ImageRecord)


def purify_folder(
    inputs: Input | Sequence[Input],
    out: Input,
    settings: PurifySettings | None = None,
    *,
    labels: Input | None = None,
    overwrite: bool = False,
    shard: str | None = None,
    compare: bool = False,
    dry_run: bool = False,
    stdin: Iterable[str] | None = None,
    on_message: OnMessage | None = None,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> PurifyResult:
    """Purify images of files and folders into an output folder; the same call resumes an interrupted one.

    Args:
        inputs: a file, folder, pattern, array file, or several.
        out: the output folder.
        settings: of the purification.
        labels: CSV file with the columns file and label, for a summary of correct predictions; needs a classifier.
        overwrite: discard the results in the output folder and start again.
        shard: do only a part of the images, "2/4"; by default all, and under torchrun the part of this process.
        compare: write comparison.png with the first 24 inputs and results.
        dry_run: only find out what would be done and how long it takes.
        stdin: paths for the input "-", one per line.
        on_message: called with :class:`~cmap_cli.purify.events.Listed` and :class:`~cmap_cli.purify.events.PurifyPlan`.
        on_progress: called with :class:`~cmap_cli.purify.events.Progress` at every step and image.
        options: fields of :class:`~cmap_cli.purify.settings.PurifySettings`, instead of those of ``settings``.

    Raises:
        UsageError: inputs or options are wrong; one error for everything that can be checked early.
        SettingsMismatchError: the output folder holds results of other settings.
        WeightsError: weights are missing.
        OutOfSpaceError: the disk is full; what is finished is kept.
    """
    settings, out = with_options(settings, options), Path(out)
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    request = check_request(
        [os.fspath(each) for each in given],
        out,
        settings,
        labels=None if labels is None else Path(labels),
        shard=shard,
        overwrite=overwrite,
        compare=compare,
        stdin=stdin,
    )
    if on_message is not None:
        on_message(request.listed())
    return purify_request(request, out, settings, overwrite, compare, dry_run, on_message, on_progress)


def purify_request(
    request: Request,
    out: Path,
    settings: PurifySettings,
    overwrite: bool,
    compare: bool,
    dry_run: bool,
    on_message: OnMessage | None,
    on_progress: OnProgress | None,
) -> PurifyResult:
    """Purify what was checked; arguments and errors as of :func:`purify_folder`."""
    began = time.monotonic()
    # torch is imported from here on, when everything that is cheap to check is right
    from cmap_cli.purify.folder import find_finished_sources
    from cmap_cli.purify.prepare import named_labels, prepare_purify
    from cmap_cli.purify.work import FolderRun, ImageCounts

    team = join_team(request.shard, settings.device)
    prepared = prepare_purify(settings, team.device, size=first_size(request))
    run = FolderRun(out, settings, request, team, prepared, on_message, on_progress)
    true_labels = named_labels(request.labels, prepared.jobs.last.classifier)
    if dry_run:
        there = set() if overwrite else find_finished_sources(out, prepared.compared, run.sources, run.extension)
        plan, _ = run.plan([source for source in run.sources if str(source) not in there], measure=team.leads)
        planned = PurifyResult(out, out / MANIFEST_FILE, prepared.compared, run.partial_shard, plan, dry_run=True)
        return dataclasses.replace(planned, exit_code=team.leave(0), seconds=time.monotonic() - began)
    with run.open_results(overwrite) as results:
        plan, jobs = run.plan(
            [source for source in run.sources if str(source) not in results.done],
            measure=team.leads and on_message is not None,
        )
        tally = run.purify(results, plan, jobs)
        manifest, manifests = results.manifest_path, list(results.journal.paths())
    total = ImageCounts.sum(team.exchange(tally))
    summary = None
    if team.leads:
        manifest = run.gather(manifest, manifests)
        summary = run.summarise(true_labels, jobs if compare else None)
    return PurifyResult(
        out,
        manifest,
        prepared.compared,
        run.partial_shard,
        plan,
        written=total.written,
        already_there=total.already_there,
        failed=total.failed,
        failures=total.failures,
        summary=summary,
        exit_code=team.leave(total.exit_code),
        seconds=time.monotonic() - began,
    )


def first_size(request: Request) -> tuple[int, int] | None:
    """(height, width) of the first image that can be read."""
    for source in request.found.sources:
        with suppress(ImageError):
            width, height = image_size(source)
            return height, width
    return None
