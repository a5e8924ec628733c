"""Purify many images: the next are read and the last are written while a batch is on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from torch import Tensor

from cmap_cli.core.types import Step
from cmap_cli.data.inputs import Source
from cmap_cli.errors import ImageError
from cmap_cli.purify.channel import Channel, Closed
from cmap_cli.purify.documents import ImageRecord
from cmap_cli.purify.events import Failed, PatchInWork
from cmap_cli.purify.folder import ResultFolder, source_origin
from cmap_cli.purify.job import Job, condition_image, purify_patches
from cmap_cli.purify.record import FileInWork, open_image, write_and_record

AHEAD = 3
"""Batches read ahead; as many patches wait to be written at most, and one image more in both cases."""
OUTCOMES = 64


OnPatch = Callable[[Step, PatchInWork], None]
"""Called at every optimisation step of a batch, with its first patch."""


@dataclass(frozen=True, slots=True)
class Broken:
    """What ended a thread."""

    error: BaseException


@dataclass(frozen=True)
class Stream:
    """Three threads and what they hand over: reader -> opened -> purifier -> purified -> writer -> outcomes.

    Memory is bounded by what is under way, whatever the number of sources.

    Attributes:
        job: how.
        results: where the images go; each record is appended after its image is written.
        extension: of the files written, with its dot.
        on_step: called at every optimisation step, in the purifier's thread.
        stop: set when nobody wants more.
    """

    job: Job
    results: ResultFolder
    extension: str
    on_step: OnPatch | None
    opened: Channel[FileInWork]
    purified: Channel[FileInWork]
    outcomes: Channel[ImageRecord | Failed | Broken]
    stop: Event = field(default_factory=Event)

    @contextmanager
    def between(self, before: Channel[Any] | None, after: Channel[Any]) -> Iterator[None]:
        """The body of a thread: tells what it died of; the threads before and after it learn of its end."""
        try:
            yield
        except Closed:
            pass
        except BaseException as error:
            with suppress(Closed):
                self.outcomes.put(Broken(error))
        finally:
            after.close()
            if before is not None:
                before.close(drop=True)

    def read(self, sources: Iterable[Source]) -> None:
        """Read and cut what is not done yet."""
        with self.between(None, self.opened):
            for source in sources:
                try:
                    if not self.results.has(source_origin(source)):
                        image = open_image(self.job, source)
                        self.opened.put(image, len(image.patches))
                except ImageError as error:
                    self.outcomes.put(Failed(str(source), error))

    def purify(self) -> None:
        """Purify in batches of patches, whichever images they are of."""
        size, queue = self.job.batch_size, list[tuple[FileInWork, Tensor]]()
        with self.between(self.opened, self.purified):
            for image in self.opened:
                try:
                    condition_image(self.job, image)
                except ImageError as error:
                    self.outcomes.put(Failed(str(image.source), error))
                    continue
                queue += [(image, patch) for patch in image.patches]
                while len(queue) >= size:
                    self.purify_batch(queue[:size])
                    del queue[:size]
            if queue and not self.stop.is_set():
                self.purify_batch(queue)

    def purify_batch(self, batch: list[tuple[FileInWork, Tensor]]) -> None:
        """Hand on the images that a batch completes."""
        first = batch[0][0]
        patch = PatchInWork(str(first.source), len(first.terms) + 1, len(first.patches))
        for image in purify_patches(self.job, batch, lambda step: self.step(step, patch)):
            self.purified.put(image, len(image.patches))

    def step(self, step: Step, patch: PatchInWork) -> None:
        """Between two steps a batch can be given up."""
        if self.stop.is_set():
            raise Closed
        if self.on_step is not None:
            self.on_step(step, patch)

    def write(self) -> None:
        """Write and record, also what is left when nobody wants to hear of it any more."""
        with self.between(self.purified, self.outcomes):
            for image in self.purified:
                outcome: ImageRecord | Failed
                try:
                    outcome = write_and_record(self.job, image, self.results, self.extension)
                except ImageError as error:
                    outcome = Failed(str(image.source), error)
                with suppress(Closed):
                    self.outcomes.put(outcome)


def purify_sources(
    job: Job,
    sources: Iterable[Source],
    results: ResultFolder,
    extension: str,
    on_step: OnPatch | None = None,
) -> Iterator[ImageRecord | Failed]:
    """Purify the sources that ``results`` does not have yet.

    Args:
        job: how.
        sources: which images; read shortly before their turn comes, so memory does not grow with their number.
        results: where they go; each record is appended after its image is written.
        extension: of the files written, with its dot.
        on_step: called at every optimisation step, in another thread, with the first patch in work.

    Yields:
        The record of each image when it is written, or why it could not be done.

    Raises:
        OutOfSpaceError: nothing more can be written.
    """
    room = AHEAD * job.batch_size
    stream = Stream(job, results, extension, on_step, Channel(room), Channel(room), Channel(OUTCOMES))
    threads = [
        Thread(target=stream.read, args=(sources,), name="cmap-read", daemon=True),
        Thread(target=stream.purify, name="cmap-purify", daemon=True),
        Thread(target=stream.write, name="cmap-write", daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        for outcome in stream.outcomes:
            if isinstance(outcome, Broken):
                raise outcome.error
            yield outcome
    finally:
        stream.stop.set()
        stream.opened.close(drop=True)
        stream.outcomes.close(drop=True)
        for thread in threads:
            thread.join()
