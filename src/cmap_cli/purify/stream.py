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
from cmap_cli.purify.job import Jobs, condition_image, purify_patches
from cmap_cli.purify.record import FileInWork, open_image, write_and_record

AHEAD = 1 << 18
"""Pixels read ahead; as many wait to be written at most, and one image more in both cases."""
WAITING = 1 << 22
"""Pixels of patches that wait for others of their size; then a batch goes without them."""
OUTCOMES = 64


OnPatch = Callable[[Step, PatchInWork], None]
"""Called at every optimisation step of a batch, with its first patch."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The error that ended a thread."""

    error: BaseException


@dataclass(frozen=True)
class Stream:
    """Three threads and the queues between them: reader -> opened -> purifier -> purified -> writer -> outcomes.

    Memory depends on the images in work, not on the number of sources.

    Attributes:
        jobs: how.
        results: where the images go; each record is appended after its image is written.
        extension: of the files written, with its dot.
        on_step: called at every optimisation step, in the purifier's thread.
        stop: set when no more results are wanted.
    """

    jobs: Jobs
    results: ResultFolder
    extension: str
    on_step: OnPatch | None
    opened: Channel[FileInWork]
    purified: Channel[FileInWork]
    outcomes: Channel[ImageRecord | Failed | Broken]
    stop: Event = field(default_factory=Event)

    @contextmanager
    def between(self, before: Channel[Any] | None, after: Channel[Any]) -> Iterator[None]:
        """The body of a thread: an error in it is reported, and the threads before and after it end too."""
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
                        image = open_image(self.jobs, source)
                        self.opened.put(image, pixels(image))
                except ImageError as error:
                    self.outcomes.put(Failed(str(source), error))

    def purify(self) -> None:
        """Purify in batches of patches of one job and size, whichever images they are of."""
        queues: dict[tuple[str, tuple[int, int]], list[tuple[FileInWork, Tensor]]] = {}
        with self.between(self.opened, self.purified):
            for image in self.opened:
                try:
                    condition_image(image)
                except ImageError as error:
                    self.outcomes.put(Failed(str(image.source), error))
                    continue
                size = image.plan.size
                queue = queues.setdefault((image.job.model, size), [])
                queue += [(image, patch) for patch in image.patches]
                while len(queue) >= image.job.batch_size(size):
                    self.purify_batch(queue, image.job.batch_size(size))
                while sum(len(queue) * h * w for (_, (h, w)), queue in queues.items()) > WAITING:
                    oldest = next(queue for queue in queues.values() if queue)
                    self.purify_batch(oldest, len(oldest))
                if not queue:
                    del queues[image.job.model, size]
            for queue in queues.values():
                if queue and not self.stop.is_set():
                    self.purify_batch(queue, len(queue))

    def purify_batch(self, queue: list[tuple[FileInWork, Tensor]], count: int) -> None:
        """Purify the first patches of a queue, and hand on the images that these complete."""
        batch = queue[:count]
        del queue[:count]
        first = batch[0][0]
        patch = PatchInWork(str(first.source), len(first.terms) + 1, len(first.patches))
        for image in purify_patches(first.job, batch, lambda step: self.step(step, patch)):
            self.purified.put(image, pixels(image))

    def step(self, step: Step, patch: PatchInWork) -> None:
        """Report a step, and give up the batch if no more results are wanted."""
        if self.stop.is_set():
            raise Closed
        if self.on_step is not None:
            self.on_step(step, patch)

    def write(self) -> None:
        """Write and record, also the rest after no more results are wanted."""
        with self.between(self.purified, self.outcomes):
            for image in self.purified:
                outcome: ImageRecord | Failed
                try:
                    outcome = write_and_record(image, self.results, self.extension)
                except ImageError as error:
                    outcome = Failed(str(image.source), error)
                with suppress(Closed):
                    self.outcomes.put(outcome)


def pixels(image: FileInWork) -> int:
    """Pixels of all its patches."""
    return len(image.patches) * image.patches[0, 0].numel()


def purify_sources(
    jobs: Jobs,
    sources: Iterable[Source],
    results: ResultFolder,
    extension: str,
    on_step: OnPatch | None = None,
) -> Iterator[ImageRecord | Failed]:
    """Purify the sources that ``results`` does not have yet.

    Args:
        jobs: how.
        sources: which images; read shortly before their turn comes, so memory does not grow with their number.
        results: where they go; each record is appended after its image is written.
        extension: of the files written, with its dot.
        on_step: called at every optimisation step, in another thread, with the first patch in work.

    Yields:
        The record of each image when it is written, or why it could not be done.

    Raises:
        OutOfSpaceError: nothing more can be written.
    """
    stream = Stream(jobs, results, extension, on_step, Channel(AHEAD), Channel(AHEAD), Channel(OUTCOMES))
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
