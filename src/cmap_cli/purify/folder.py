"""The output folder of ``cmap purify``: its settings, and one line for each finished image, from which it resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Self

import msgspec

from cmap_cli.data.inputs import Source
from cmap_cli.data.outputs import output_path
from cmap_cli.errors import CmapError, ImageError, UsageError, raise_all
from cmap_cli.purify.documents import ImageRecord, Origin, RunDocument
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import MANIFEST, RUN_FILE, claim_settings, refuse_other_settings
from cmap_cli.runs.shard import WHOLE, Shard


class ResultFolder:
    """``run.json`` (settings) and ``manifest.jsonl`` (one record per image) of an output folder.

    A record is appended only after its image is in place, so after a kill the manifest never claims too much; the
    image that was in work is done again. Several processes can work on one folder, each with a shard of its own and a
    manifest of its own; what any of them has done is done. Use it in a ``with`` statement.

    Args:
        folder: the output folder.
        settings: what determines the results; a run continues only with equal ones.
        overwrite: forget what is there, of all shards.
        shard: whose records are written.

    Raises:
        SettingsMismatchError: the folder holds results of other settings.
        CmapError: another process is writing them, or run.json or the manifest cannot be read or written.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False, shard: Shard = WHOLE
    ) -> None:
        self.folder = folder
        self.run_path = folder / RUN_FILE
        self.journal = Journal(folder, MANIFEST, shard)
        self.makers: dict[str, str] = {}
        self.journal.open()
        try:
            if overwrite:
                forget_parts(self.journal)
            document = msgspec.structs.asdict(RunDocument(settings=dict(settings)))
            self.resumes = claim_settings(self.run_path, document, overwrite=overwrite)
            self.done = self.drop_unfinished()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes have the shard."""
        self.journal.close()

    @property
    def manifest_path(self) -> Path:
        """The file of this process."""
        return self.journal.path

    def drop_unfinished(self) -> dict[str, tuple[int, int]]:
        """What is done, in any shard; half a line and lost images are taken out of the file of this process."""
        if self.manifest_path.exists():
            self.journal.rewrite(record for record in self.records() if self.is_there(record))
        of_all = (record for path in self.journal.paths() for record in read_lines(path, ImageRecord))
        done = dict[str, tuple[int, int]]()
        for record in chain((each for each in of_all if self.is_there(each)), self.records()):
            done[record.source] = record.version
            self.makers[record.output] = record.source
        return done

    def claim_places(self, sources: Iterable[Source], extension: str) -> None:
        """Make sure that no result overwrites that of another file; a file under another path is done already.

        Raises:
            UsageError: a place holds the result of another file.
        """
        problems: list[CmapError] = []
        for source in sources:
            output = output_path(source, extension)
            maker = self.makers.get(str(output), str(source))
            if maker == str(source):
                continue
            if is_same(maker, source):
                self.done[str(source)] = self.done[maker]
            else:
                problems.append(
                    UsageError(
                        f"{self.folder / output} is the result of {maker}, and {source} would overwrite it",
                        "another --out, or --overwrite",
                    )
                )
        raise_all(problems, str(self.folder))

    def is_there(self, record: ImageRecord) -> bool:
        """Whether the image of a record exists."""
        return (self.folder / record.output).exists()

    def has(self, origin: Origin) -> bool:
        """Whether the image that was made from these bytes is done."""
        return self.done.get(origin.source) == origin.version

    def forget_changed(self, sources: Iterable[Source]) -> None:
        """Forget images whose files are not what they were when they were done; the manifest is written once."""
        changed = set()
        for source in sources:
            if str(source) in self.done:
                try:
                    now = source_origin(source)
                except ImageError:
                    continue  # it is reported when its turn comes
                if not self.has(now):
                    changed.add(now.source)
        for name in changed:
            del self.done[name]
        if changed:
            self.journal.rewrite(record for record in self.records() if record.source not in changed)

    def records(self) -> Iterator[ImageRecord]:
        """The records of this process's manifest, in the order in which they were finished."""
        return self.journal.read(ImageRecord)

    def append(self, record: ImageRecord) -> None:
        """Add a record (OutOfSpaceError when the disk is full)."""
        self.journal.append([record])


def is_same(recorded: str, source: Source) -> bool:
    """Whether a recorded source is this one, under another path."""
    name = str(source).removeprefix(str(source.path))  # which image of an array file
    return recorded.endswith(name) and Path(recorded.removesuffix(name)).resolve() == source.path.resolve()


def find_finished_sources(
    folder: Path, settings: Mapping[str, Any], sources: Iterable[Source], extension: str
) -> set[str]:
    """The sources that a folder, which is not touched, has results of.

    Args:
        folder: the output folder.
        settings: of the run.
        sources: that are looked for.
        extension: of the files that are written.

    Raises:
        SettingsMismatchError: the folder holds results of other settings.
    """
    path = folder / RUN_FILE
    if not path.exists():
        return set()
    refuse_other_settings(path, settings)
    made = {
        record.output: record
        for manifest in Journal(folder, MANIFEST).paths()
        for record in read_lines(manifest, ImageRecord)
        if (folder / record.output).exists()
    }
    finished = set()
    for source in sources:
        record = made.get(str(output_path(source, extension)))
        if record is not None and (record.source == str(source) or is_same(record.source, source)):
            with suppress(ImageError):  # it is reported when its turn comes
                if source_origin(source).version == record.version:
                    finished.add(str(source))
    return finished


def source_origin(source: Source) -> Origin:
    """The fields of a record that say which bytes it was made from (ImageError without a file)."""
    try:
        stat = source.path.stat()
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror or error}") from error
    return Origin(source=str(source), source_bytes=stat.st_size, source_mtime_ns=stat.st_mtime_ns)
