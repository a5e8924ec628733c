"""Records in JSON lines that survive kills: one file for each process that writes into a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock

from cmap_cli.errors import CmapError, UsageError
from cmap_cli.files import (
    append_text,
    lock_path,
    lock_target,
    release_lock,
    sweep_temporaries,
    take_lock,
    write_text,
)
from cmap_cli.runs.documents import UNDECODABLE, parse_json
from cmap_cli.runs.shard import WHOLE, Shard

T = TypeVar("T")


class Journal:
    """Records in JSON lines, one file for each process that writes into a folder.

    A process appends to its own file and never touches another's, so that none waits for another. The finished
    records are those of all files. A single process writes ``manifest.jsonl``, a shard ``manifest-2-of-4.jsonl``.

    Args:
        folder: where the files are.
        stem: beginning of their names.
        shard: whose file is written.
    """

    def __init__(self, folder: Path, stem: str, shard: Shard = WHOLE) -> None:
        self.folder = folder
        self.stem = stem
        self.shard = shard
        self.path = folder / journal_name(stem, shard)
        self.lock: FileLock | None = None

    def open(self) -> None:
        """Keep other processes from writing the same file, until :meth:`close` or the end of this process.

        Raises:
            CmapError: one of them is.
        """
        self.lock = take_lock(self.path)
        if self.lock is None:
            share = "" if self.shard == WHOLE else f" shard {self.shard} of"
            raise CmapError(
                f"another process is writing{share} {self.folder}", "wait for it, or give each process its own --shard"
            )
        if not self.has_company():
            sweep_temporaries(self.folder)

    def has_company(self) -> bool:
        """Whether other processes hold locks in the folder; the locks of killed ones are removed."""
        busy = False
        for path in self.folder.glob(".*.lock"):
            if path != lock_path(self.path):
                lock = take_lock(lock_target(path))
                busy = busy or lock is None
                release_lock(lock)
        return busy

    def close(self) -> None:
        """Let other processes write the file."""
        release_lock(self.lock)
        self.lock = None

    def paths(self) -> list[Path]:
        """The files of all processes that there are, the one that was changed last at the end."""
        pattern = re.compile(rf"{re.escape(self.stem)}(-\d+-of-\d+)?\.jsonl")
        found = [path for path in self.folder.glob(f"{self.stem}*.jsonl") if pattern.fullmatch(path.name)]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def read(self, kind: type[T]) -> Iterator[T]:
        """The records of this process, decoded into a type."""
        return read_lines(self.path, kind)

    def all_records(self) -> Iterator[dict[str, Any]]:
        """The records of all processes."""
        for path in self.paths():
            yield from read_lines(path, dict)

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of this process and of those that had its file before, in the order of finishing."""
        return read_lines(self.path, dict)

    def append(self, records: Iterable[dict[str, Any] | msgspec.Struct]) -> None:
        """Add records, in one piece (OutOfSpaceError when the disk is full)."""
        append_text(self.path, "".join(map(encode_line, records)))

    def rewrite(self, records: Iterable[dict[str, Any] | msgspec.Struct]) -> None:
        """Replace what this process has recorded."""
        write_text(self.path, map(encode_line, records))


def journal_name(stem: str, shard: Shard) -> str:
    """Name of the file of a process: manifest.jsonl, or manifest-2-of-4.jsonl for a shard."""
    return f"{stem}.jsonl" if shard == WHOLE else f"{stem}-{shard.index}-of-{shard.count}.jsonl"


def encode_line(record: dict[str, Any] | msgspec.Struct) -> str:
    """The line of a record; json's encoder takes names of files that are no UTF-8, msgspec's does not."""
    return json.dumps(msgspec.to_builtins(record), allow_nan=False) + "\n"


def scan(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """The records of a file with the offsets of their lines; none if there is no file.

    A last line that a kill cut short is left out.

    Args:
        path: of the JSON lines, UTF-8.
        kind: what every line is decoded into.

    Raises:
        UsageError: another line is damaged or of another program, or the file cannot be read.
    """
    decoder = msgspec.json.Decoder(kind)
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield offset, parse_json(line, decoder)
                except UNDECODABLE as error:
                    if any(later.strip() for later in file):
                        raise UsageError(
                            f"line {number} of {path} is damaged or of another program: {error}",
                            "restore the file, or start again with --overwrite",
                        ) from error
                    if complete_json(line):
                        raise UsageError(f"line {number} of {path} is of another program: {error}") from error
                    return
                offset += len(line)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def complete_json(line: bytes) -> bool:
    """Whether a line is a JSON value: if so, no kill cut it short."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_lines(path: Path, kind: type[T]) -> Iterator[T]:
    """The records of a file, as :func:`scan` finds them."""
    return (record for _, record in scan(path, kind))
