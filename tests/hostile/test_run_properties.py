"""Any bytes in label files and in the files of an output folder: errors of ours, and nothing is written outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cmap_cli.benchmarking.compare import compare
from cmap_cli.benchmarking.documents import AttackLine, BenchmarkRecord, read_benchmark
from cmap_cli.benchmarking.export import count_successes
from cmap_cli.benchmarking.report import build_report
from cmap_cli.data.labels import read_labels
from cmap_cli.data.listing import list_table
from cmap_cli.purify.documents import ImageRecord
from cmap_cli.purify.folder import ResultFolder
from cmap_cli.purify.summary import summarise
from cmap_cli.runs.journal import read_lines
from cmap_cli.runs.merge import merge_folder, merge_folders
from cmap_cli.runs.progress import read_parts
from cmap_cli.runs.settings import refuse_other_settings
from tests.fake_benchmark import fake_records, write_benchmark
from tests.hostile.corpus import picture
from tests.hostile.strategies import as_json, damaged, fuzz, json_files, json_lines, only_our_errors

SETTINGS = {"model": "cifar10-gaussian", "steps": 10, "seed": 0, "images": ["in/a.png"]}
RUN = {"schema": "cmap.run/1", "settings": SETTINGS}
PART = {
    "schema": "cmap.part/1", "shard": "1/2", "listed": 4, "owned": 2, "finished": True, "failed": 1,
    "failures": [{"source": "in/b.png", "error": "in/b.png is no image"}],
}  # fmt: skip
IMAGE_RECORD = {
    "source": "in/a.png", "source_bytes": 100, "source_mtime_ns": 5, "output": "a.png", "width": 8, "height": 8,
    "fit": "exact", "tiles": 1, "seed": 0, "num_latents": 1, "steps": 1, "objective": 1.0, "pixel_term": 0.5,
    "perceptual_term": 0.1, "latent_term": 0.1, "l1": 0.01, "psnr": 30.0, "ssim": 0.9, "vote": "cat", "before": "cat",
    "after": "dog", "seconds": 0.1,
}  # fmt: skip
ATTACK_LINE = {
    "key": "a", "label": 1, "label_is_prediction": False, "attack": "pgd", "access": "transfer", "norm": "Linf",
    "eps": "8/255", "distance": 0.03, "file": "adversarial/a.safetensors", "row": 0, "classifier": 2, "defense": "cmap",
    "defended": [2, 2], "success": True, "success_defended": True, "png": "a.png", "png_distance": 0.03,
    "png_success": True, "png_success_defended": True,
}  # fmt: skip


def toy_benchmark(folder: Path) -> Path:
    """A small benchmark's folder that never ran."""
    return write_benchmark(folder, n=3, attacks=("pgd@white-box",), defenses=("cmap",), eps=("8/255",), pictures=False)


def recorded() -> list[dict[str, Any]]:
    """Records of that benchmark."""
    import random

    return list(fake_records(random.Random(0), 3, ("pgd@white-box",), ("cmap",), ("8/255",)))


RECORDS = recorded()
LABELS = b"file,label\na.png,0\nb.png,1\n"
CELLS = [
    "a.png",
    "b.png",
    "",
    "../a.png",
    "/",
    "a\0b",
    "0",
    "-1",
    "9" * 5000,
    "cat",
    "\x1b[31m",
    '"',
    "\r",
    "[/x]",
    "é",
]


def empty(folder: Path) -> Path:
    """The folder without what an earlier example left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@fuzz
@given(
    content=st.one_of(
        damaged([LABELS, b"\xef\xbb\xbf" + LABELS]),
        st.binary(max_size=80),
        st.lists(st.tuples(st.sampled_from(CELLS), st.sampled_from(CELLS)), max_size=4).map(
            lambda rows: ("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows)).encode()
        ),
    )
)
def test_label_files(tmp_path: Path, content: bytes) -> None:
    for name in ("a.png", "b.png"):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(picture("PNG"))
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with only_our_errors():
        table = read_labels(path)
        assert table.labels
        listing = list_table(table)
        assert len(listing.labels) == len(listing.sources)


@fuzz
@given(content=json_lines([IMAGE_RECORD]), run=st.one_of(st.just(as_json(RUN)), json_files([RUN])))
def test_folders_of_purify(tmp_path: Path, content: bytes, run: bytes) -> None:
    folder = empty(tmp_path / "out")
    (folder / "manifest.jsonl").write_bytes(content)
    (folder / "run.json").write_bytes(run)
    (folder / "a.png").write_bytes(b"x")
    with only_our_errors():
        summarise(read_lines(folder / "manifest.jsonl", ImageRecord), {})
    with only_our_errors(), ResultFolder(folder, SETTINGS) as results:
        assert set(results.done) <= {record.source for record in results.records()}


@fuzz
@given(content=json_files([RUN]))
def test_random_bytes_as_run_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with only_our_errors():
        refuse_other_settings(tmp_path / "run.json", SETTINGS)


@fuzz
@given(
    content=json_files([PART]), numbers=st.sampled_from(["1-of-2", "0-of-0", f"{'9' * 200}-of-2", "2-of-1", "1-of-x"])
)
def test_part_files(tmp_path: Path, content: bytes, numbers: str) -> None:
    folder = empty(tmp_path / "parts")
    (folder / f"part-{numbers}.json").write_bytes(content)
    with only_our_errors():
        read_parts(folder)


@fuzz
@given(
    lines=json_lines([IMAGE_RECORD, IMAGE_RECORD | {"source": "in/b.png", "output": "b.png"}]),
    part=st.one_of(st.just(as_json(PART)), json_files([PART])),
    run=st.one_of(st.just(as_json(RUN)), json_files([RUN])),
)
def test_merges_of_purify(tmp_path: Path, lines: bytes, part: bytes, run: bytes) -> None:
    top = empty(tmp_path / "top")
    for number in (1, 2):
        folder = top / f"part-{number}"
        folder.mkdir()
        (folder / f"manifest-{number}-of-2.jsonl").write_bytes(lines)
        (folder / f"part-{number}-of-2.json").write_bytes(part)
        (folder / "run.json").write_bytes(run)
        (folder / "a.png").write_bytes(b"x")
    before = {path.name for path in top.iterdir()}
    with only_our_errors():
        merge_folders([top / "part-1", top / "part-2"], top / "whole")
    with only_our_errors():
        merge_folder(top / "part-1")
    assert {path.name for path in top.iterdir()} <= before | {"whole"}


@fuzz
@given(
    lines=json_lines(RECORDS),
    benchmark=st.one_of(st.none(), json_files([json.loads(as_json({"schema": "cmap.benchmark/1", "settings": {}}))])),
)
def test_folders_of_benchmarks(tmp_path: Path, lines: bytes, benchmark: bytes | None) -> None:
    folder = toy_benchmark(empty(tmp_path / "run"))
    (folder / "records.jsonl").write_bytes(lines)
    if benchmark is not None:
        (folder / "benchmark.json").write_bytes(benchmark)
    with only_our_errors():
        list(read_lines(folder / "records.jsonl", BenchmarkRecord))
    with only_our_errors():
        read_benchmark(folder)
    with only_our_errors():
        build_report(folder)
    with only_our_errors():
        merge_folder(folder)


@fuzz
@given(data=st.data())
def test_settings_of_benchmarks(tmp_path: Path, data: st.DataObject) -> None:
    folder = toy_benchmark(empty(tmp_path / "run"))
    whole = json.loads((folder / "benchmark.json").read_bytes())
    (folder / "benchmark.json").write_bytes(data.draw(json_files([whole])))
    with only_our_errors():
        build_report(folder)
    with only_our_errors():
        merge_folder(folder)


@fuzz
@given(data=st.data())
def test_reports_that_are_compared(tmp_path: Path, data: st.DataObject) -> None:
    from cmap_cli.benchmarking.report import write_report

    folder = tmp_path / "base"
    if not folder.exists():
        write_report(toy_benchmark(folder))
    whole = json.loads((folder / "report.json").read_bytes())
    (tmp_path / "new.json").write_bytes(data.draw(json_files([whole])))
    with only_our_errors():
        compare(folder, tmp_path / "new.json")


@fuzz
@given(content=json_lines([ATTACK_LINE]))
def test_manifests_of_attacks(tmp_path: Path, content: bytes) -> None:
    folder = empty(tmp_path / "attacked")
    (folder / "manifest.jsonl").write_bytes(content)
    with only_our_errors():
        list(read_lines(folder / "manifest.jsonl", AttackLine))
    with only_our_errors():
        count_successes(folder)
