"""One result from the shards of a run, in one folder or in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmap_cli.errors import SettingsMismatchError, UsageError
from cmap_cli.files import append_text, copy_file, make_folder
from cmap_cli.runs.documents import decode_json, read_document
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.order import Line, certificate_key, record_key
from cmap_cli.runs.progress import (
    Gathered,
    decisive_parts,
    forget_parts,
    gather,
    latest,
    lines_at,
    read_parts,
    remove_states,
    write_part,
)
from cmap_cli.runs.settings import (
    CERTIFY_FILE,
    MANIFEST,
    RECORDS,
    RUN_FILE,
    SETTINGS_FILE,
    claim_settings,
    differing,
    read_settings,
)

Kind = Literal["purify", "attack", "benchmark", "certify"]
PARTIAL = 3
"""Exit code of an incomplete merge."""
NOUNS: dict[Kind, str] = {"purify": "images", "attack": "tasks", "benchmark": "tasks", "certify": "certificates"}
"""The units of a run, by the kind of run."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The merged results of the shards of a run.

    Attributes:
        kind: the command that they are of.
        folder: of the merged results.
        count: number of finished units, see :data:`NOUNS`.
        listed: number of all units; None if there were no shards.
        missing: what is missing, one sentence for each thing.
        failed: number of images that could not be processed.
        failures: the first failures.
    """

    kind: Kind
    folder: Path
    count: int
    listed: int | None
    missing: tuple[str, ...]
    failed: int
    failures: tuple[dict[str, str], ...]

    @property
    def lacking(self) -> tuple[str, ...]:
        """What is missing and what failed, one sentence for each thing."""
        return (*self.missing, *(failure["error"] for failure in self.failures))

    @property
    def exit_code(self) -> int:
        """3 if something is missing or failed, else 0."""
        return PARTIAL if self.missing or self.failed else 0


def kind_of(folder: Path) -> Kind:
    """The command that made a folder (UsageError if none of cmap did)."""
    if (folder / RUN_FILE).exists():
        return "purify"
    if (folder / CERTIFY_FILE).exists():
        return "certify"
    if not (folder / SETTINGS_FILE).exists():
        raise UsageError(
            f"{folder} holds neither {RUN_FILE} nor {SETTINGS_FILE} nor {CERTIFY_FILE}",
            "name a folder that cmap purify, attack, benchmark or certify has written to",
        )
    protocol = read_settings(folder / SETTINGS_FILE).get("protocol")
    return "attack" if protocol is None else "benchmark"


def settings_path(folder: Path) -> Path:
    """The file of the settings of a folder's run."""
    return folder / {"purify": RUN_FILE, "certify": CERTIFY_FILE}.get(kind_of(folder), SETTINGS_FILE)


def merge_folder(folder: Path, *, final: bool = False) -> Merged:
    """Gather what the shards of a run have written into one folder.

    Args:
        folder: of the run.
        final: whether the run is known to be complete, whatever the progress files of shards contain.

    Raises:
        CmapError: another process is writing the gathered file, or a file cannot be read or written.
        UsageError: the folder is of no run.
    """
    kind = kind_of(folder)
    known = [] if final else decisive_parts(read_parts(folder))
    failed, failures = sum(part.failed for part in known), tuple(each for part in known for each in part.failures)
    listed = max((part.listed for part in known), default=None)
    noun = NOUNS[kind]
    *others, content = contents(folder, kind)
    for other in others:
        gather_lines(folder, other, final=final)
    found = gather_lines(folder, content, unit=3 if noun == "tasks" else None, final=final)
    missing = list(found.absent)
    if found.lost:
        missing.append(f"{found.lost} files that are recorded are not there")
    if listed is not None and listed > found.count + failed:
        missing.append(f"{listed - found.count - failed} of {listed} {noun} are missing")
    if not missing and not failed:
        remove_states(folder)
    return Merged(kind, folder, found.count, listed, tuple(missing), failed, failures)


def merge_folders(folders: Sequence[Path], out: Path, *, overwrite: bool = False) -> Merged:
    """Copy the parts of a run from several folders into one, and merge them there.

    Args:
        folders: of the parts.
        out: folder for the whole; a merge that was interrupted, or lacked some parts, is continued.
        overwrite: discard the results that are there.

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
    make_folder(out)
    kind = kind_of(folders[0])
    if overwrite:
        forget_all(out, kind)
    claim_settings(out / first.name, read_document(first, dict[str, Any], UsageError), overwrite=overwrite)
    for folder in others:
        for content in reversed(contents(folder, kind)):
            copy_part(folder, out, content)
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
        lines = [
            line
            for stem in (MANIFEST, RECORDS)
            for path in Journal(folder, stem).paths()
            for line in read_lines(path, Line)
        ]
        for name in {name for line in lines for name in (line.output, line.png) if name}:
            if (out / inside(name)).exists():
                raise UsageError(
                    f"{out / name} exists already and is of no earlier run", "choose another --out, or --overwrite"
                )


def forget_all(out: Path, kind: Kind) -> None:
    """Remove the records of whatever is in a folder."""
    own = Journal(out, MANIFEST if kind == "purify" else RECORDS)
    own.open()
    try:
        forget_parts(own, RECORDS if kind == "purify" else MANIFEST)
    finally:
        own.close()


@dataclass(frozen=True, slots=True)
class Content:
    """A kind of JSON lines in a folder.

    Attributes:
        stem: name of the files.
        key: what is unique to a line, and sorts.
        file: of the files that a line names, the one that belongs to it; None if it names none.
        optional: whether a line may name none.
    """

    stem: str
    key: Callable[[Line], tuple[Any, ...]]
    file: Callable[[Line], str | None]
    optional: bool = False

    def is_good(self, folder: Path, line: Line) -> bool:
        """Whether the file that a line names exists."""
        name = self.file(line)
        return self.optional if name is None else (folder / inside(name)).exists()


def contents(folder: Path, kind: Kind) -> list[Content]:
    """The kinds of lines in a folder, the one that decides what is missing last."""
    if kind == "purify":
        return [Content(MANIFEST, lambda line: (line.output or "",), lambda line: line.output)]
    key = certificate_key(folder) if kind == "certify" else record_key(folder)
    records = Content(RECORDS, key, lambda line: line.file, optional=True)
    if kind in ("benchmark", "certify"):
        return [records]
    return [Content(MANIFEST, lambda line: (line.file or "", line.row or 0), lambda line: line.png), records]


def gather_lines(folder: Path, content: Content, *, unit: int | None = None, final: bool) -> Gathered:
    """One file of lines from those of all shards, see :func:`cmap_cli.runs.progress.gather`."""
    return gather(
        folder, content.stem, Line, content.key, lambda line: content.is_good(folder, line), unit=unit, final=final
    )


def copy_part(folder: Path, out: Path, content: Content) -> None:
    """Copy the records of a part, and first the files that they name, unless they are there."""
    journal = Journal(out, content.stem)
    journal.open()
    try:
        there = {content.key(line) for path in journal.paths() for line in read_lines(path, Line)}
        paths = Journal(folder, content.stem).paths()
        places, _ = latest(paths, Line, content.key, lambda line: content.is_good(folder, line))
        copied: set[str] = set()
        for text in lines_at(paths, [places[each] for each in sorted(places) if each not in there]):
            name = content.file(decode_json(text, Line, folder, UsageError))
            if name is not None and name not in copied:
                copy_file(folder / inside(name), out / inside(name))
                if content.stem == RECORDS:  # many records of one file
                    copied.add(name)
            append_text(journal.path, text)
    finally:
        journal.close()


def inside(name: str) -> Path:
    """A path of a record, which must not lead out of its folder (UsageError)."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise UsageError(f"a record names the file {name!r}, which is not in its folder")
    return path
