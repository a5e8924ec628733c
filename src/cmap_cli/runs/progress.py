"""The shards of a run in one folder: the progress of each, and one file gathered from all of theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock

from cmap_cli.errors import CmapError, UsageError
from cmap_cli.files import lock_target, release_lock, take_lock, write_text
from cmap_cli.runs.documents import Document, read_document
from cmap_cli.runs.journal import Journal, scan
from cmap_cli.runs.shard import WHOLE, Shard

PART_SCHEMA = "cmap.part/1"
PART_NAME = re.compile(r"part-(\d+)-of-(\d+)\.json")
MOST_FAILURES = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """The progress of a shard, in ``part-2-of-4.json``.

    Attributes:
        shard: the shard.
        listed: number of units of all shards together.
        owned: number of units of this shard.
        finished: whether it has processed all of them.
        failed: number of its images that could not be processed.
        failures: the first 1,000 of these, each ``source`` and ``error``.
    """

    shard: Shard
    listed: int
    owned: int
    finished: bool = False
    failed: int = 0
    failures: tuple[dict[str, str], ...] = ()


class PartDocument(Document, frozen=True, kw_only=True):
    """``part-2-of-4.json``: the progress of a shard."""

    schema: str = PART_SCHEMA
    shard: str = ""
    listed: int
    owned: int
    finished: bool
    failed: int
    failures: tuple[dict[str, str], ...]


def part_path(folder: Path, shard: Shard) -> Path:
    """Path of a shard's progress file."""
    return folder / f"part-{shard.index}-of-{shard.count}.json"


def write_part(folder: Path, part: Part) -> None:
    """Write the progress of a shard; a single process has no progress file."""
    if part.shard == WHOLE:
        return
    document = PartDocument(
        shard=str(part.shard),
        listed=part.listed,
        owned=part.owned,
        finished=part.finished,
        failed=part.failed,
        failures=part.failures[:MOST_FAILURES],
    )
    write_text(part_path(folder, part.shard), json.dumps(msgspec.to_builtins(document), indent=2) + "\n")


def read_parts(folder: Path) -> list[Part]:
    """The progress of the shards of a folder (UsageError for a damaged file)."""
    parts = []
    for path in sorted(folder.glob("part-*-of-*.json")):
        match = PART_NAME.fullmatch(path.name)
        if match is None:
            continue
        found = read_document(path, PartDocument, UsageError)
        shard = Shard(int(match[1]), int(match[2]))
        part = Part(shard, found.listed, found.owned, found.finished, found.failed, found.failures)
        parts.append(part)
    return parts


def decisive_parts(parts: Sequence[Part]) -> list[Part]:
    """The parts that decide whether a run is complete: those of the division into shards that got farthest.

    A run can be resumed with another number of shards. Each shard skips what any other has
    done, so the run is complete as soon as all shards of one division have finished.
    """
    counts = sorted({part.shard.count for part in parts})
    ranked = [[part for part in parts if part.shard.count == count] for count in counts]
    return max(ranked, key=lambda those: sum(part.finished for part in those) / those[0].shard.count, default=[])


def missing(parts: Sequence[Part]) -> list[str]:
    """What is missing of a run, one sentence for each shard."""
    known = {part.shard.index: part for part in decisive_parts(parts)}
    if not known:
        return []
    count = next(iter(known.values())).shard.count
    sentences = []
    for index in range(1, count + 1):
        if index not in known:
            sentences.append(f"shard {Shard(index, count)} is missing")
        elif not known[index].finished:
            sentences.append(f"shard {Shard(index, count)} is not finished")
    return sentences


def forget_parts(own: Journal, *stems: str) -> None:
    """Remove what all shards have written.

    Args:
        own: the journal of this process, open.
        stems: of other journals in the folder.

    Raises:
        CmapError: another process is at work.
    """
    locks, working = lock_others(own)
    try:
        if working:
            raise CmapError(f"another process is writing {working[0]}", "wait for it, or stop it")
        for journal in (own, *(Journal(own.folder, stem) for stem in stems)):
            for path in journal.paths():
                path.unlink(missing_ok=True)
    finally:
        for lock in locks:
            release_lock(lock)
    remove_states(own.folder)


def remove_states(folder: Path) -> None:
    """Remove the progress files of all shards."""
    for part in read_parts(folder):
        part_path(folder, part.shard).unlink(missing_ok=True)


def lock_others(own: Journal) -> tuple[list[FileLock], list[Path]]:
    """Locks on the files of all other processes, and those that are being written.

    A process that has recorded nothing yet is known by its lock; the lock of one that was killed is cleared away.
    """
    locks, working = [], []
    named = {lock_target(path) for path in own.folder.glob(f".{own.stem}*.jsonl.lock")}
    for path in sorted({*own.paths(), *named}):
        if path != own.path:
            lock = take_lock(path)
            if lock is None:
                working.append(path)
            else:
                locks.append(lock)
    return locks, working


@dataclass(frozen=True, slots=True)
class Gathered:
    """The merged records of the shards of a folder.

    Attributes:
        count: number of finished units.
        lost: number of records that were not good.
        absent: what is missing, one sentence for each thing.
    """

    count: int
    lost: int
    absent: tuple[str, ...]


def gather(
    folder: Path,
    stem: str,
    kind: type[T],
    key: Callable[[T], tuple[Any, ...]],
    keep: Callable[[T], bool],
    *,
    unit: int | None = None,
    final: bool = False,
) -> Gathered:
    """Write one journal from those of all shards, sorted, each record once; removes theirs if the run is complete.

    Only keys and places of records are held in memory.

    Args:
        folder: where the journals are.
        stem: beginning of their names.
        kind: what a record is decoded into.
        key: what is unique to a record, and sorts; of two records with the same key the later one stays.
        keep: whether a record is good.
        unit: how much of the key is the same for all records of a unit; None for all of it.
        final: whether the run is known to be complete, whatever the progress files of shards contain.

    Raises:
        CmapError: another process is writing the one journal.
    """
    one = Journal(folder, stem)
    one.open()
    locks, working = lock_others(one)
    try:
        absent = [] if final else missing(read_parts(folder))
        absent += [f"{path.name} is still being written" for path in working]
        paths = one.paths()
        places, lost = latest(paths, kind, key, keep)
        write_text(one.path, lines_at(paths, [places[each] for each in sorted(places)]))
        if not absent:
            for path in paths:
                if path != one.path:
                    path.unlink(missing_ok=True)
    finally:
        one.close()
        for lock in locks:
            release_lock(lock)
    return Gathered(len({each[:unit] for each in places}), lost, tuple(absent))


def latest(
    paths: Sequence[Path], kind: type[T], key: Callable[[T], tuple[Any, ...]], keep: Callable[[T], bool]
) -> tuple[dict[tuple[Any, ...], tuple[int, int]], int]:
    """The place of each good record, (file, offset) by key, and how many others there are."""
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    lost = set()
    for number, path in enumerate(paths):
        for offset, record in scan(path, kind):
            if keep(record):
                places[key(record)] = (number, offset)
            else:
                lost.add(key(record))
    return places, len(lost - places.keys())


def lines_at(paths: Sequence[Path], places: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Lines of several files, by (file, offset)."""
    files = [path.open("rb") for path in paths]
    try:
        for number, offset in places:
            files[number].seek(offset)
            yield files[number].readline().decode().rstrip("\n") + "\n"
    except UnicodeDecodeError as error:
        raise UsageError(f"{paths[number]} is damaged: {error}") from error
    finally:
        for file in files:
            file.close()
