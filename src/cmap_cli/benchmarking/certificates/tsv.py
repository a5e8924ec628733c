"""Certificates as tab-separated values, in the columns of Cohen's certify.py: read and written."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cmap_cli.benchmarking.certificates.documents import CertificateRecord
from cmap_cli.errors import UsageError
from cmap_cli.files import write_text

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
ABSTAINS = -1


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """A line of such a file: number of the image in its data set, class, predicted class or −1, radius."""

    index: int
    label: int
    predicted: int
    radius: float
    correct: bool

    def holds_at(self, radius: float) -> bool:
        """Whether the certificate covers a radius and the class is right."""
        return self.correct and self.radius >= radius


def tsv_name(sigma: float) -> str:
    """The file of a noise level."""
    return f"sigma-{sigma:g}.tsv"


def write_tsv(path: Path, records: Iterable[CertificateRecord]) -> None:
    """Write the records of one noise level."""
    lines = ["\t".join(COLUMNS)]
    for each in records:
        predicted = ABSTAINS if each.predicted is None else each.predicted
        cells = (each.index, each.label, predicted, f"{each.radius:.6g}", int(each.correct))
        lines.append("\t".join([*map(str, cells), str(timedelta(seconds=each.seconds))]))
    write_text(path, "\n".join(lines) + "\n")


def read_tsv(path: Path) -> list[CertificateRow]:
    """Read a file that has these columns, in any order, and maybe others (UsageError for anything else)."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t")
            rows = list(reader)
            names: Sequence[str] = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if lacking := [name for name in COLUMNS[:5] if name not in names]:
        raise UsageError(f"{path} has no column {lacking[0]}", f"tab-separated columns {', '.join(COLUMNS)}")
    found = []
    for number, row in enumerate(rows, 2):
        try:
            radius, correct = float(row["radius"]), bool(int(row["correct"]))
            found.append(CertificateRow(int(row["idx"]), int(row["label"]), int(row["predict"]), radius, correct))
        except (TypeError, ValueError) as error:
            raise UsageError(f"line {number} of {path} is damaged: {error}") from error
    if not found:
        raise UsageError(f"{path} has no lines")
    return found
