"""The reader of label files: CSV with the columns file and label -> LabelTable."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.errors import CmapError, UsageError, raise_all

_CSV_HINT = "Its first line must be file,label and every other line a path, relative to the CSV file, and its label"
LABELS_HINT = "Labels are one class number per image, integers from 0"
MOST_DIGITS = 9
"""Of a class number."""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """A CSV file of labels.

    Attributes:
        path: of the CSV file.
        files: the files of its lines, as they are written there.
        labels: class number by resolved path of the image, in the order of the lines.
        classes: names of the classes, sorted; () if the labels are numbers.
    """

    path: Path
    files: tuple[str, ...]
    labels: dict[Path, int]
    classes: tuple[str, ...]

    def names(self) -> dict[Path, str]:
        """Label of each image as the file writes it, a class name or a number, by resolved path of the image."""
        return {path: self.classes[label] if self.classes else str(label) for path, label in self.labels.items()}


def read_labels(path: Path) -> LabelTable:
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
    raise_all(problems, str(path))
    labels = {image: numbers[label] for image, (_, _, label) in lines.items()}
    return LabelTable(path, tuple(name for _, name, _ in lines.values()), labels, classes)


def _number(path: Path, lines: dict[str, int], problems: list[CmapError]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Class names, and the number of each label, from labels with their first lines; adds to the problems."""
    numbers = [label for label in lines if re.fullmatch(r"[+-]?[0-9]+", label)]
    names = sorted(set(lines) - set(numbers))
    if numbers and names:
        both = f"the number {numbers[0]} (line {lines[numbers[0]]}) and the name {names[0]} (line {lines[names[0]]})"
        problems.append(UsageError(f"{path} mixes labels: {both}", "Use class numbers or class names throughout"))
    wrong = [label for label in numbers if len(label) > MOST_DIGITS or int(label) < 0]
    for label in wrong:
        problems.append(UsageError(f"{path}, line {lines[label]} has the label {label[:40]}", LABELS_HINT))
    known = {label: int(label) for label in numbers if label not in wrong}
    return tuple(names), {name: number for number, name in enumerate(names)} | known
