"""Labels of images from a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path

from cmap_cli.errors import UsageError


def read_labels(path: Path) -> dict[Path, str]:
    """Labels by resolved path of the image.

    Args:
        path: a CSV file with the columns ``file``, relative to the CSV file's folder, and ``label``.

    Raises:
        UsageError: it cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise UsageError(f"{path} has no columns file and label", "its first line must be: file,label")
            return {(path.parent / row["file"]).resolve(): row["label"] for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"the labels {path} cannot be read: {error}", "--labels takes a CSV file: file,label"
        ) from error
