"""Pictures and their labels: folders of classes, CSV files -> Listing. Only headers are read.

What is wrong stops the run before it begins and is said all at once: an image that silently went missing would change
every accuracy. Only a picture that is damaged inside is found later, when it is read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmap_cli.data.headers import inspect_array
from cmap_cli.data.inputs import Source, discover
from cmap_cli.errors import CmapError, ImageError, UsageError

UNKNOWN = -1
"""The label of an image that has none."""

_PROBLEMS_SHOWN = 20
_CSV_HINT = "Its first line must be file,label and every other line a path, relative to the CSV file, and its label"
LABELS_HINT = "Labels are one class number per image, integers from 0"


@dataclass(frozen=True, slots=True)
class Listing:
    """Images, and what they are.

    Attributes:
        sources: the images, in the order of their folder or file.
        labels: a class number for each, or `UNKNOWN` for all.
        keys: a name for each that stays the same wherever the files lie.
        classes: names of the classes; () if they have only numbers.
    """

    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file of labels.

    Attributes:
        path: of the CSV file.
        files: of its lines, as they are written there.
        labels: by resolved path of the image, in the order of the lines.
        classes: the names of the classes, sorted; () if the labels are numbers.
    """

    path: Path
    files: tuple[str, ...]
    labels: dict[Path, int]
    classes: tuple[str, ...]


def refuse(problems: Sequence[CmapError], what: str) -> None:
    """Raises what is wrong, if anything is.

    Raises:
        UsageError: the one problem, or one for all of them.
    """
    if len(problems) == 1:
        raise UsageError(problems[0].message, problems[0].hint)
    if problems:
        shown, rest = list(problems[:_PROBLEMS_SHOWN]), len(problems) - _PROBLEMS_SHOWN
        if rest > 0:
            shown.append(UsageError(f"{what} has {rest:,} more mistakes"))
        raise UsageError(f"{what} has {len(problems):,} mistakes", problems=shown)


def list_class_folders(root: Path, classes: Sequence[str] | None = None, hint: str = "") -> Listing:
    """An ImageFolder: each sub-folder is a class, numbered by name; what lies deeper belongs to it too.

    Args:
        root: the folder.
        classes: all that there are, of which some may have no folder here; None for the sub-folders themselves,
            each of which then has to hold an image, as torchvision demands.
        hint: for a folder that is none of `classes`.

    Raises:
        UsageError: there is no image, one is in no class, or a class is unknown or empty.
    """
    found = discover([str(root)])
    refuse([failure.error for failure in found.failures], str(root))
    problems = list[CmapError]()
    folders = [source.path.relative_to(root).parts[0] for source in found.sources]
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = {name: number for number, name in enumerate(present if classes is None else classes)}
    for folder in present if classes is None else ():
        if folder not in folders:
            problems.append(UsageError(f"the class folder {root / folder} holds no image", "Remove it, or fill it"))
    for folder in dict.fromkeys(folders):
        if folder not in present:
            problems.append(
                UsageError(f"{root / folder} is in no class folder", "Move it into the folder of its class")
            )
        elif folder not in names:
            problems.append(UsageError(f"the folder {root / folder} is none of the {len(names)} classes", hint))
    refuse(problems, str(root))
    return Listing(tuple(found.sources), tuple(names[f] for f in folders), _keys(found.sources), tuple(names))


def list_images(name: str, table: Table | None) -> Listing:
    """A folder, with class folders if no image lies in it directly, or a file or pattern as ``cmap purify`` takes.

    Args:
        name: as typed.
        table: labels for all of the images, which is then all that counts; None for those of the class folders.

    Raises:
        UsageError: there is no image, one cannot be used, or the table lacks one.
    """
    found = discover([name])
    root = Path(name)
    if table is None and root.is_dir() and all(source.path.parent != root for source in found.sources):
        return list_class_folders(root)
    problems: list[CmapError] = [failure.error for failure in found.failures]
    if table is None:
        refuse(problems, name)
        return Listing(tuple(found.sources), (UNKNOWN,) * len(found.sources), _keys(found.sources))
    labels = [table.labels.get(source.path.resolve(), UNKNOWN) for source in found.sources]
    for source, label in zip(found.sources, labels, strict=True):
        if label == UNKNOWN:
            problems.append(UsageError(f"{table.path} has no label for {source}", "Add it, or leave the image out"))
    refuse(problems, name)
    return Listing(tuple(found.sources), tuple(labels), _keys(found.sources), table.classes)


def _keys(sources: Sequence[Source]) -> tuple[str, ...]:
    """The place of each below its folder; image 7 of in/a.npy is ``a.npy/000007``."""

    def key(source: Source) -> str:
        place = source.relative
        return str(place if source.index is None else place.parent.parent / source.path.name / place.name)

    return tuple(key(source) for source in sources)


def read_table(path: Path) -> Table:
    """Labels from a CSV file with the columns ``file``, relative to the CSV file's folder, and ``label``.

    All labels are class numbers from 0, or all are class names, which are numbered by name.

    Raises:
        UsageError: it cannot be read, lacks a column or a value, repeats an image or names one that does not exist.
    """
    problems: list[CmapError] = []
    lines: dict[Path, tuple[int, str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if absent := [column for column in ("file", "label") if column not in (rows.fieldnames or ())]:
                raise UsageError(f"{path} has no column {' and no column '.join(absent)}", _CSV_HINT)
            for row in rows:
                name, label, where = row["file"] or "", (row["label"] or "").strip(), f"{path}, line {rows.line_num}"
                image = (path.parent / name).resolve()
                if not name or not label:
                    problems.append(UsageError(f"{where} has no {'label' if name else 'file'}", _CSV_HINT))
                elif image in lines:
                    problems.append(UsageError(f"{where} names {name} again, after line {lines[image][0]}"))
                else:
                    lines[image] = (rows.line_num, name, label)
                    if not image.is_file():
                        problems.append(UsageError(f"{where} names {name}, which is not a file", _CSV_HINT))
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a CSV file: {error}", _CSV_HINT) from error
    if not lines and not problems:
        raise UsageError(f"{path} names no image", _CSV_HINT)
    first = dict[str, int]()
    for line, _, label in lines.values():
        first.setdefault(label, line)
    classes, numbers = _number(path, first, problems)
    refuse(problems, str(path))
    labels = {image: numbers[label] for image, (_, _, label) in lines.items()}
    return Table(path, tuple(name for _, name, _ in lines.values()), labels, classes)


def _number(path: Path, lines: dict[str, int], problems: list[CmapError]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names and the number of each label, given with the first line it is in; adds what is wrong."""
    numbers = [label for label in lines if re.fullmatch(r"[+-]?[0-9]+", label)]
    names = sorted(set(lines) - set(numbers))
    if numbers and names:
        both = f"the number {numbers[0]} (line {lines[numbers[0]]}) and the name {names[0]} (line {lines[names[0]]})"
        problems.append(UsageError(f"{path} mixes labels: {both}", "Use class numbers or class names throughout"))
    for label in numbers:
        if int(label) < 0:
            problems.append(UsageError(f"{path}, line {lines[label]} has the label {label}", LABELS_HINT))
    return tuple(names), {name: number for number, name in enumerate(names)} | {label: int(label) for label in numbers}


def list_table(table: Table) -> Listing:
    """The images that a CSV file names, in its order.

    Raises:
        UsageError: one of them holds no image or several.
    """
    sources, problems = [], list[CmapError]()
    for image, name in zip(table.labels, table.files, strict=True):
        try:
            array = inspect_array(table.path.parent / name)
            if array and array.count is not None:
                raise UsageError(f"{image} holds {array.count} images, {table.path} one label", LABELS_HINT)
        except (ImageError, UsageError) as error:
            problems.append(error)
        else:
            path = table.path.parent / name
            sources.append(Source(path, None, array.key if array else None, PurePosixPath(Path(name).as_posix())))
    refuse(problems, str(table.path))
    return Listing(tuple(sources), tuple(table.labels.values()), _keys(sources), table.classes)
