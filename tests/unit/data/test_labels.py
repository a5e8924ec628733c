"""Label files: one reader for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmap_cli.data.labels import read_labels
from cmap_cli.errors import UsageError


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A path for a label file, beside two images."""
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "labels.csv"


def test_labels_are_read_beside_their_file(labels: Path, tmp_path: Path) -> None:
    labels.write_text("label,file\ncat,sub/b.png\nant,a.png\n")
    table = read_labels(labels)
    assert table.names() == {(tmp_path / "sub/b.png").resolve(): "cat", (tmp_path / "a.png").resolve(): "ant"}
    assert (list(table.labels.values()), table.classes) == ([1, 0], ("ant", "cat"))


def test_numbers_stay_numbers_and_a_byte_order_mark_is_no_part_of_the_header(labels: Path) -> None:
    labels.write_text("file,label\na.png,03\n", encoding="utf-8-sig")
    table = read_labels(labels)
    assert (list(table.names().values()), list(table.labels.values()), table.classes) == (["3"], [3], ())


def test_everything_wrong_is_reported_at_once(labels: Path) -> None:
    labels.write_text("file,label\na.png,cat\na.png,cat\ngone.png,dog\nsub/b.png,\n")
    with pytest.raises(UsageError) as caught:
        read_labels(labels)
    assert [str(each).partition("labels.csv, ")[2] for each in caught.value.problems] == [
        "line 3 names a.png again, after line 2",
        "line 4 names gone.png, which is not a file",
        "line 5 has no label",
    ]


def test_a_file_that_is_no_label_file_is_refused(labels: Path, tmp_path: Path) -> None:
    labels.write_text("name,class\n")
    with pytest.raises(UsageError, match="has no column file and no column label"):
        read_labels(labels)
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(tmp_path / "missing.csv")


@pytest.mark.parametrize("label", ["9" * 5000, "-1", "10000000000"])
def test_numbers_that_are_no_class_are_refused(labels: Path, label: str) -> None:
    labels.write_text(f"file,label\na.png,{label}\n")
    with pytest.raises(UsageError, match=r"line 2 has the label") as caught:
        read_labels(labels)
    assert len(str(caught.value)) < 200 + len(str(labels))
