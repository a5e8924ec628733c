"""One result from the shards of a run, in one folder or in several."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmap_cli.errors import CmapError, SettingsMismatchError, UsageError
from cmap_cli.files import copy_file
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.progress import (
    deciding,
    forget_parts,
    gather,
    latest,
    lines_at,
    read_parts,
    remove_states,
    write_part,
)
from cmap_cli.runs.settings import MANIFEST, RECORDS, RUN_FILE, SETTINGS_FILE, claim_settings, differing, read_settings

Kind = Literal["purify", "attack", "benchmark"]
Keys = Callable[[dict[str, Any]], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Merged:
    """What the shards of a run add up to.

    Attributes:
        kind: the command that they are of.
        folder: where the whole is.
        count: images of purify, chunks of the others, that are there.
        listed: how many there should be; None if there were no shards.
        missing: what is not there, a sentence each.
        failed: images that could not be done.
        failures: the first of these.
    """

    kind: Kind
    folder: Path
    count: int
    listed: int | None
    missing: tuple[str, ...]
    failed: int
    failures: tuple[dict[str, str], ...]


def kind_of(folder: Path) -> Kind:
    """The command that made a folder (UsageError if it was none of ours)."""
    if (folder / RUN_FILE).exists():
        return "purify"
    if not (folder / SETTINGS_FILE).exists():
        raise UsageError(
            f"{folder} holds neither {RUN_FILE} nor {SETTINGS_FILE}",
            "name a folder that cmap purify, attack or benchmark has written to",
        )
    protocol = read_settings(folder / SETTINGS_FILE).get("protocol")
    return "attack" if protocol is None else "benchmark"


def settings_path(folder: Path) -> Path:
    """The file of the settings of a folder's run."""
    return folder / (RUN_FILE if kind_of(folder) == "purify" else SETTINGS_FILE)


def merge_folder(folder: Path, *, final: bool = False) -> Merged:
    """Gather what the shards of a run have written into one folder.

    Args:
        folder: of the run.
        final: the run is known to be whole, whatever the shards say.

    Raises:
        CmapError: another process is writing the gathered file, or a file cannot be read or written.
        UsageError: the folder is of no run.
    """
    kind = kind_of(folder)
    told = [] if final else deciding(read_parts(folder))
    failed, failures = sum(part.failed for part in told), tuple(each for part in told for each in part.failures)
    listed = max((part.listed for part in told), default=None)
    if kind == "purify":
        found = gather(folder, MANIFEST, image_key, lambda record: has_file(folder, record, "output"), final=final)
        noun = "images"
    else:
        if kind == "attack":
            gather(folder, MANIFEST, row_key, lambda line: has_file(folder, line, "png"), final=final)
        found = gather(
            folder, RECORDS, record_key(folder), lambda record: has_file(folder, record, "file"), unit=3, final=final
        )
        noun = "chunks"
    missing = list(found.absent)
    if found.lost:
        missing.append(f"{found.lost} files that are recorded are not there")
    if listed is not None and listed > found.count + failed:
        missing.append(f"{listed - found.count - failed} of {listed} {noun} are missing")
    if not missing and not failed:
        remove_states(folder)
    return Merged(kind, folder, found.count, listed, tuple(missing), failed, failures)


def merge_folders(folders: Sequence[Path], out: Path, *, overwrite: bool = False) -> Merged:
    """Bring the parts of a run from several folders into one, and gather them there.

    Args:
        folders: of the parts.
        out: where the whole goes; a merge that was cut short, or had to do without some parts, is taken up again.
        overwrite: forget what is there.

    Raises:
        SettingsMismatchError: the folders are not of one run.
        CmapError: as :func:`merge_folder`.
    """
    first = settings_path(folders[0])
    for other in map(settings_path, folders[1:]):
        refuse_another_run(first, other)
    others = [folder for folder in folders if folder.resolve() != out.resolve()]
    if len(others) < len(folders) and overwrite:
        raise UsageError(f"--overwrite would forget {out}, which is one of the parts", "leave out --overwrite")
    if not (out / first.name).exists():
        refuse_files_in_the_way(others, out)
    out.mkdir(parents=True, exist_ok=True)
    kind = kind_of(folders[0])
    if overwrite:
        forget_all(out, kind)
    claim_settings(out / first.name, json.loads(first.read_text(encoding="utf-8")), overwrite=overwrite)
    for folder in others:
        if kind == "purify":
            bring(folder, out, MANIFEST, image_key, ("output",))
            continue
        bring(folder, out, RECORDS, record_key(folder), ("file",))
        if kind == "attack":
            bring(folder, out, MANIFEST, row_key, ("png",))
    for folder in others:
        finished = {part.shard for part in read_parts(out) if part.finished}
        for part in read_parts(folder):
            if part.shard not in finished:
                write_part(out, part)
    return merge_folder(out)


def refuse_another_run(first: Path, other: Path) -> None:
    """Name what makes two folders parts of different runs (SettingsMismatchError)."""
    if first.name != other.name:
        raise SettingsMismatchError(f"{first.parent} and {other.parent} were not written by the same command")
    one, two = read_settings(first), read_settings(other)
    if names := differing(one, two):
        listed = ", ".join(f"{name} is {one.get(name)!r} and {two.get(name)!r}" for name in names)
        raise SettingsMismatchError(
            f"{first.parent} and {other.parent} hold results of different settings: {listed}",
            "only parts of one run can be merged",
        )


def refuse_files_in_the_way(folders: Sequence[Path], out: Path) -> None:
    """A new output folder must hold nothing that would be overwritten (UsageError)."""
    for folder in folders:
        journals = (Journal(folder, MANIFEST), Journal(folder, RECORDS))
        names = {record.get(name) for each in journals for record in each.all_records() for name in ("output", "png")}
        for name in names - {None}:
            if (out / str(name)).exists():
                raise UsageError(
                    f"{out / str(name)} exists already and is of no earlier run", "Choose another --out, or --overwrite"
                )


def forget_all(out: Path, kind: Kind) -> None:
    """Remove the records of whatever is in a folder."""
    own = Journal(out, MANIFEST if kind == "purify" else RECORDS)
    own.open()
    try:
        forget_parts(own, RECORDS if kind == "purify" else MANIFEST)
    finally:
        own.close()


def bring(folder: Path, out: Path, stem: str, key: Keys, files: Sequence[str]) -> None:
    """Copy the records of a part, and first the files that they name, unless they are there."""
    journal = Journal(out, stem)
    journal.open()
    try:
        there = {key(record) for record in journal.all_records()}
        paths = Journal(folder, stem).paths()
        places, _ = latest(paths, key, lambda record: all(has_file(folder, record, name) for name in files))
        copied: set[str] = set()
        for line in lines_at(paths, [places[each] for each in sorted(places) if each not in there]):
            record = json.loads(line)
            for name in files:
                if record[name] is not None and record[name] not in copied:
                    copy_file(folder / inside(record[name]), out / inside(record[name]))
                    if stem == RECORDS:  # many records of one file
                        copied.add(record[name])
            journal.append([record])
    finally:
        journal.close()


def inside(name: str) -> Path:
    """A path of a record, which must not lead out of its folder (CmapError)."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise CmapError(f"a record names the file {name}, which is not in its folder")
    return path


def has_file(folder: Path, record: dict[str, Any], name: str) -> bool:
    """Whether the file that a record names is there; a clean image of a benchmark has none."""
    return name in record and (record[name] is None or (folder / record[name]).exists())


def image_key(record: dict[str, Any]) -> tuple[Any, ...]:
    """Of a line of purify: the image written."""
    return (record.get("output", ""),)


def row_key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Of a line of attack's manifest: where the floats are."""
    return (line.get("file", ""), line.get("row", 0))


def record_key(folder: Path) -> Keys:
    """Of a record of a benchmark: the order in which one process makes them."""
    run = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    chunk = int(run["settings"].get("chunk") or 1)
    items = {name: number for number, name in enumerate(run.get("provenance", {}).get("items", ()))}
    defenses = {name: number for number, name in enumerate(run["settings"].get("defenses", ()))}

    def key(record: dict[str, Any]) -> tuple[Any, ...]:
        name, defense, image = record["item"], record["defense"], record["image"]
        start = image // chunk * chunk
        return (start, items.get(name, len(items)), name, defenses.get(defense, len(defenses)), defense, image)

    return key
