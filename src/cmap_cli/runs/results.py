"""The output folder of a run: its settings, and one line for each finished image, from which it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cmap_cli.data.inputs import Source
from cmap_cli.errors import CmapError, ImageError, SettingsMismatchError
from cmap_cli.runs.journal import Journal, release_lock, take_lock, write_atomically
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.shard import WHOLE, Shard

RUN_FILE = "run.json"
MANIFEST = "manifest"
MANIFEST_FILE = f"{MANIFEST}.jsonl"
COMPARISON_FILE = "comparison.png"
PATIENCE = 60.0

Record = dict[str, Any]


class ResultFolder:
    """``run.json`` (settings) and ``manifest.jsonl`` (one record an image) of an output folder.

    A record is appended only after its image is in place, so after a kill the manifest never claims too much; the
    image that was in work is done again. Several processes can work on one folder, each with a shard of its own and a
    manifest of its own; what any of them has done is done. Use it in a ``with`` statement.

    Args:
        folder: the output folder.
        settings: what determines the results; a run goes on only with equal ones.
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
        self.journal.open()
        try:
            if overwrite:
                forget_parts(self.journal)
            document = {"schema": "cmap.run/1", "settings": settings}
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
        of_all = {record["source"]: identity(record) for record in self.journal.all_records() if self.is_there(record)}
        return of_all | {record["source"]: identity(record) for record in self.records()}

    def is_there(self, record: Record) -> bool:
        """Whether the image of a record is."""
        return "output" in record and (self.folder / record["output"]).exists()

    def has(self, source: Record) -> bool:
        """Whether the image with these identifying fields is done."""
        return self.done.get(source["source"]) == identity(source)

    def forget_changed(self, sources: Iterable[Source]) -> None:
        """Forget images whose files are not what they were when they were done; the manifest is written once."""
        changed = set()
        for source in sources:
            if str(source) in self.done:
                try:
                    now = source_identity(source)
                except ImageError:
                    continue  # it is told when its turn comes
                if not self.has(now):
                    changed.add(now["source"])
        for name in changed:
            del self.done[name]
        if changed:
            self.journal.rewrite(record for record in self.records() if record["source"] not in changed)

    def records(self) -> Iterator[Record]:
        """The records of this process's manifest, in the order in which they were finished."""
        return self.journal.records()

    def append(self, record: Record) -> None:
        """Add a record (OutOfSpaceError when the disk is full)."""
        self.journal.append([record])


def claim_settings(path: Path, document: Mapping[str, Any], *, overwrite: bool = False) -> bool:
    """Write the settings of a run, or make sure that those which are there are equal.

    Processes that start together cannot both be the first.

    Args:
        path: run.json or benchmark.json.
        document: what is written, with ``settings``.
        overwrite: whatever is there.

    Returns:
        Whether settings were there.

    Raises:
        SettingsMismatchError: other settings are there.
    """
    lock = take_lock(path, PATIENCE)
    if lock is None:
        raise CmapError(f"{path} is locked by another process for more than {PATIENCE:.0f} s")
    try:
        if path.exists() and not overwrite:
            refuse_other_settings(path, document["settings"])
            return True
        write_atomically(path, json.dumps(document, indent=2) + "\n")
        return False
    finally:
        release_lock(lock)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a run's file (SettingsMismatchError if there are none)."""
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["settings"]
        return dict(settings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsMismatchError(
            f"{path} cannot be read as the settings of a run: {error}", "--overwrite starts again"
        ) from error


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Name every setting that differs from those in a run's file (SettingsMismatchError)."""
    before, now = read_settings(path), json.loads(json.dumps(settings))
    if changed := differing(before, now):
        listed = ", ".join(f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in changed)
        raise SettingsMismatchError(
            f"{path.parent} holds the results of a run with other settings: {listed}",
            "use the same settings, another --out, or --overwrite to start again",
        )


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The names of the settings that two runs do not share."""
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def source_identity(source: Source) -> Record:
    """The fields of a record that say which bytes it was made from (ImageError without a file)."""
    try:
        stat = source.path.stat()
    except OSError as error:
        raise ImageError(f"{source} cannot be read: {error.strerror or error}") from error
    return {"source": str(source), "source_bytes": stat.st_size, "source_mtime_ns": stat.st_mtime_ns}


def identity(record: Mapping[str, Any]) -> tuple[int, int]:
    """What tells whether a source has changed since it was done: its file's size and time of change."""
    return record["source_bytes"], record["source_mtime_ns"]
