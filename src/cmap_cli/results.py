"""The output folder of a run: its settings, and one line for each finished image, from which it resumes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cmap_cli.errors import CmapError, OutOfSpaceError, SettingsMismatchError

RUN_FILE = "run.json"
MANIFEST_FILE = "manifest.jsonl"
COMPARISON_FILE = "comparison.png"
RESERVED_NAMES = frozenset({RUN_FILE, MANIFEST_FILE, COMPARISON_FILE})

Record = dict[str, Any]


class ResultFolder:
    """``run.json`` (settings) and ``manifest.jsonl`` (one record an image) of an output folder.

    A record is appended only after its image is in place, so after a kill the manifest never claims too much; the
    image that was in work is done again.

    Args:
        folder: the output folder.
        settings: what determines the results; a run goes on only with equal ones.
        overwrite: forget what is there.

    Raises:
        SettingsMismatchError: the folder holds results of other settings.
        CmapError: run.json or the manifest cannot be read or written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.folder = folder
        self.run_path = folder / RUN_FILE
        self.manifest_path = folder / MANIFEST_FILE
        self.resumes = self.run_path.exists() and not overwrite
        if self.resumes:
            refuse_other_settings(self.run_path, settings)
        else:
            self.manifest_path.unlink(missing_ok=True)
            write_atomically(self.run_path, json.dumps({"schema": "cmap.run/1", "settings": settings}, indent=2) + "\n")
        self.done = {record["source"]: identity(record) for record in self.drop_unfinished()}

    def drop_unfinished(self) -> list[Record]:
        """The records whose images are there; a half-written last line and failures are taken out of the file."""
        kept = [record for record in self.records() if "output" in record and (self.folder / record["output"]).exists()]
        self.rewrite(kept)
        return kept

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the manifest."""
        write_atomically(self.manifest_path, "".join(json.dumps(record) + "\n" for record in records))

    def has(self, source: Record) -> bool:
        """Whether the image with these identifying fields is done; if its file has changed since, that is forgotten."""
        name = source["source"]
        if name in self.done and self.done[name] != identity(source):
            self.rewrite([record for record in self.records() if record["source"] != name])
            del self.done[name]
        return name in self.done

    def records(self) -> Iterator[Record]:
        """The records of the manifest, in the order in which they were finished."""
        if not self.manifest_path.exists():
            return
        with self.manifest_path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    return  # a line that a kill cut short; it can only be the last

    def append(self, record: Record) -> None:
        """Add a record (OutOfSpaceError when the disk is full)."""
        try:
            with self.manifest_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise writing_error(self.manifest_path, error) from error


def refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Name every setting that differs from those in a run's file (SettingsMismatchError)."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsMismatchError(
            f"{path} cannot be read as the settings of a run: {error}", "--overwrite starts again"
        ) from error
    now = json.loads(json.dumps(settings))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if changed:
        listed = ", ".join(f"{key} was {before.get(key)!r} and is now {now.get(key)!r}" for key in changed)
        raise SettingsMismatchError(
            f"{path.parent} holds the results of a run with other settings: {listed}",
            "use the same settings, another --out, or --overwrite to start again",
        )


def identity(record: Mapping[str, Any]) -> tuple[int, int]:
    """What tells whether a source has changed since it was done: its file's size and time of change."""
    return record["source_bytes"], record["source_mtime_ns"]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise writing_error(path, error) from error


def writing_error(path: Path, error: OSError) -> CmapError:
    """What to tell the user when a file cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(f"no space left to write {path}", "make room; the same command goes on where it stopped")
    return CmapError(f"{path} cannot be written: {error.strerror or error}")
