"""Damaged files of a run end in one sentence, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmap_cli.benchmarking.checks import write_checked_report
from cmap_cli.benchmarking.documents import read_benchmark
from cmap_cli.errors import UsageError
from cmap_cli.runs.merge import merge_folder, merge_folders
from tests.fake_benchmark import write_benchmark

DAMAGE = {
    "bad UTF-8": b'{"image": 0, "key": "\xff"}\n',
    "a number": b"7\n",
    "a list": b"[]\n",
    "a number for a text": b'{"image": 0, "key": 1}\n',
    "a text for a number": b'{"image": "0", "item": 1, "file": 2}\n',
    "deep nesting": b"[" * 100_000 + b"\n",
    "nothing like JSON": b"\x00\x01\x02\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_benchmark(tmp_path / "run", n=4, attacks=("pgd@bpda",), eps=("8/255",), pictures=False)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_records(folder: Path, damage: bytes) -> None:
    path = folder / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(damage + whole)
    with pytest.raises(UsageError, match="line 1 of"):
        write_checked_report(folder)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_benchmark_json(folder: Path, damage: bytes) -> None:
    (folder / "benchmark.json").write_bytes(damage)
    for read in (read_benchmark, write_checked_report, merge_folder):
        with pytest.raises(UsageError, match=r"benchmark\.json"):
            read(folder)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_part_file(folder: Path, damage: bytes) -> None:
    (folder / "part-1-of-2.json").write_bytes(damage)
    with pytest.raises(UsageError, match=r"part-1-of-2\.json"):
        merge_folder(folder)


def test_settings_of_other_types(folder: Path) -> None:
    run = json.loads((folder / "benchmark.json").read_text())
    run["settings"]["defenses"] = "many"
    (folder / "benchmark.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match=r"benchmark\.json"):
        merge_folder(folder)


def test_the_half_line_of_a_kill_is_left_out(folder: Path) -> None:
    report = write_checked_report(folder)
    with (folder / "records.jsonl").open("ab") as file:
        file.write(b'{"image": 0, "key": "half a li\xc3')
    assert write_checked_report(folder).headline == report.headline


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "nul\0"])
def test_a_record_that_names_a_file_outside(folder: Path, name: str, tmp_path: Path) -> None:
    record = json.loads((folder / "records.jsonl").read_text().splitlines()[-1]) | {"file": name}
    (folder / "records-1-of-2.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UsageError, match="not in its folder"):
        merge_folder(folder)
    with pytest.raises(UsageError, match="not in its folder"):
        merge_folders([folder], tmp_path / "out")
