"""One job in several processes gives what one process gives: shards, torchrun, lost workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from cmap_cli.cli.documents import MergedBenchmarkOutput
from tests.attack_toys import short_autoattack
from tests.conftest import Run

ROOT = str(Path(__file__).parents[2])
QUICK = ("--model", "cifar10-gaussian", "--preset", "fast", "--steps", "2", "--num-latents", "2")
TIMES = {"seconds", "source_mtime_ns"}
Launch = Callable[..., subprocess.CompletedProcess[str]]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CMAP_DEVICE": "cpu", "PYTHONPATH": ROOT, "NO_COLOR": "1"}


def launcher(processes: int, *options: str) -> list[str]:
    """The beginning of a command of torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*torchrun, *options, "-m", "cmap_cli", "--"]  # or torchrun takes --n for an option of its own


@pytest.fixture
def torchrun(tmp_path: Path) -> Launch:
    def launch(processes: int, *arguments: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*launcher(processes, *options), *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return launch


@pytest.fixture
def dozen(tmp_path: Path) -> Path:
    """A folder ``in`` with twelve pictures, some of other sizes, some in a subfolder."""
    for index in range(12):
        size = (40, 36) if index == 5 else (32, 32)
        pixels = np.random.RandomState(index).randint(0, 256, (*size, 3), np.uint8)
        path = tmp_path / "in" / ("sub" if index > 8 else "") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "in"


def pictures(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in {*TIMES, "provenance"}}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def manifest(out: Path) -> list[dict[str, Any]]:
    return sorted(untimed(lines(out / "manifest.jsonl")), key=lambda line: str(line["output"]))


def same_as_one_process(out: Path, one: Path) -> None:
    """The same bytes, the same records, and nothing else left."""
    assert pictures(out) == pictures(one)
    assert manifest(out) == manifest(one)
    assert {path.name for path in out.iterdir()} == {path.name for path in one.iterdir()}


def test_two_processes_of_torchrun_continue_a_run_and_give_what_one_gives(
    invoke: Run, torchrun: Launch, dozen: Path, tmp_path: Path
) -> None:
    hidden = [path.rename(tmp_path / path.name) for path in sorted(dozen.iterdir())[5:]]
    assert invoke("purify", "in", "--out", "two", *QUICK).returncode == 0
    for path in hidden:
        path.rename(dozen / path.name)
    (dozen / "bad.png").write_text("no picture")
    run = torchrun(2, "purify", "in", "--out", "two", *QUICK, "--json")
    assert run.returncode != 0
    document = json.loads(run.stdout)
    assert (document["written"], document["already_there"], document["summary"]["images"]) == (7, 5, 12)
    assert (document["exit_code"], document["failed"], document["failures"][0]["source"]) == (3, 1, "in/bad.png")
    assert len(re.findall(r"rank [01]: error: in/bad.png", run.stderr)) == 1
    assert invoke("purify", "in", "--out", "one", *QUICK).returncode == 3
    same_as_one_process(tmp_path / "two", tmp_path / "one")


def test_shards_give_what_one_process_gives(invoke: Run, dozen: Path, tmp_path: Path) -> None:
    assert invoke("purify", "in", "--out", "one", *QUICK).returncode == 0
    for index in (1, 2):
        run = invoke("purify", "in", "--out", "two", "--shard", f"{index}/2", *QUICK, "--json")
        assert run.returncode == 0, run.stderr
        document = json.loads(run.stdout)
        assert document["shard"] == f"{index}/2"
        assert len(lines(Path(tmp_path, document["manifest"]))) == document["written"]
    merged = invoke("merge", "two")
    assert merged.returncode == 0, merged.stderr
    assert "12 of 12 images" in merged.stdout
    same_as_one_process(tmp_path / "two", tmp_path / "one")

    assert invoke("purify", "in", "--out", "m1", "--shard", "1/3", *QUICK).returncode == 0
    assert invoke("purify", "in", "--out", "m3", "--shard", "3/3", *QUICK).returncode == 0
    partial = invoke("merge", "m1", "m3", "--out", "three", "--json")
    assert partial.returncode == 3
    document = json.loads(partial.stdout)
    assert document["missing"][0] == "shard 2/3 is missing"
    assert document["there"] < document["listed"] == 12
    assert invoke("purify", "in", "--out", "m2", "--shard", "2/3", *QUICK).returncode == 0
    merged = invoke("merge", "m1", "m2", "m3", "--out", "three", "--quiet")
    assert (merged.returncode, merged.stdout.strip()) == (0, "three/manifest.jsonl")
    same_as_one_process(tmp_path / "three", tmp_path / "one")
    assert invoke("purify", "in", "--out", "other", "--shard", "1/3", *QUICK, "--seed", "4").returncode == 0
    refused = invoke("merge", "other", "m2", "--out", "four")
    assert refused.returncode == 2
    assert "seed is 4 and 0" in refused.stderr
    assert not (tmp_path / "four").exists()


def test_another_number_of_shards_or_none_goes_on(invoke: Run, dozen: Path, tmp_path: Path) -> None:
    assert invoke("purify", "in", "--out", "one", *QUICK).returncode == 0
    assert invoke("purify", "in", "--out", "two", "--shard", "1/2", *QUICK).returncode == 0
    done = len(pictures(tmp_path / "two"))
    third = json.loads(invoke("purify", "in", "--out", "two", "--shard", "2/3", *QUICK, "--json").stdout)
    assert third["written"] + done < 12
    rest = invoke("purify", "in", "--out", "two", *QUICK, "--json")
    document = json.loads(rest.stdout)
    assert document["already_there"] == done + third["written"]
    assert document["written"] + document["already_there"] == document["summary"]["images"] == 12
    same_as_one_process(tmp_path / "two", tmp_path / "one")


def test_options_that_do_not_go_with_shards(invoke: Run, dozen: Path, tmp_path: Path) -> None:
    run = invoke("purify", "in", "--out", "o", "--shard", "3/2", "--compare")
    assert (run.returncode, "--shard 3/2 is not a shard" in run.stderr) == (2, True)
    run = invoke("purify", "in", "--out", "o", "--shard", "1/2", "--overwrite")
    assert (run.returncode, "--overwrite would remove" in run.stderr) == (2, True)
    run = invoke("benchmark", "--out", "o", "--shard", "1/2", "--fail-under", "0.5")
    assert (run.returncode, "cmap merge DIR --fail-under" in run.stderr) == (2, True)
    run = invoke("merge", "in")
    assert (run.returncode, "holds neither run.json nor benchmark.json" in run.stderr) == (2, True)
    assert invoke("merge", "in", "in").returncode == 2
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_one_part_has_one_writer(cmap: Run, dozen: Path, tmp_path: Path) -> None:
    options = ("purify", "in", "--out", "o", *QUICK[:4], "--steps", "400", "--num-latents", "20", "--quiet")
    first = subprocess.Popen(
        [sys.executable, "-m", "cmap_cli", *options, "--shard", "1/2"], cwd=tmp_path, env=ENVIRONMENT
    )
    with first:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (tmp_path / "o" / "part-1-of-2.json").exists():
            time.sleep(0.02)
        second = cmap(*options, "--shard", "1/2")
        assert second.returncode == 1
        assert "another process is writing shard 1/2 of o" in second.stderr
        first.send_signal(signal.SIGKILL)
    assert cmap("purify", "in", "--out", "p", *QUICK, "--shard", "1/2").returncode == 0
    third = cmap("purify", "in", "--out", "o", *QUICK, "--overwrite")  # the lock has fallen with its process
    assert third.returncode == 0, third.stderr
    assert not list((tmp_path / "o").glob("*-of-*"))


def slow_enough_to_kill(dozen: Path) -> tuple[str, ...]:
    for index in range(30):
        pixels = np.random.RandomState(100 + index).randint(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(dozen / f"more{index}.png")
    return ("purify", "in", *QUICK[:4], "--steps", "30", "--num-latents", "2", "--batch-size", "2", "--quiet")


@pytest.mark.slow
def test_a_lost_worker_is_restarted_and_goes_on(invoke: Run, dozen: Path, tmp_path: Path) -> None:
    options = slow_enough_to_kill(dozen)
    assert invoke(*options, "--out", "one").returncode == 0
    command = [*launcher(2, "--max-restarts", "2"), *options, "--out", "two", "--overwrite"]
    run = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    record = tmp_path / "two" / "manifest-2-of-2.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (record.exists() and record.read_text().count("\n") >= 3):
        time.sleep(0.01)
    before = {line["output"]: (tmp_path / "two" / line["output"]).stat().st_mtime_ns for line in lines(record)[:3]}
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    workers = [pid for pid in children if "cmap_cli" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 0, stderr
    same_as_one_process(tmp_path / "two", tmp_path / "one")
    after = {name: (tmp_path / "two" / name).stat().st_mtime_ns for name in before}
    assert after == before  # not done again, nor forgotten for --overwrite


@pytest.mark.slow
def test_three_processes_of_torchrun_give_what_one_gives(
    invoke: Run, torchrun: Launch, dozen: Path, tmp_path: Path
) -> None:
    assert invoke("purify", "in", "--out", "one", *QUICK, "--compare").returncode == 0
    run = torchrun(3, "purify", "in", "--out", "three", *QUICK, "--compare", "--quiet")
    assert run.returncode == 0, run.stderr
    written = {str(Path(line).relative_to("three")) for line in run.stdout.splitlines()}
    assert written == set(pictures(tmp_path / "three")) - {"comparison.png"}
    (tmp_path / "three" / "comparison.png").unlink()  # the first 24 by name, in one process by place
    (tmp_path / "one" / "comparison.png").unlink()
    same_as_one_process(tmp_path / "three", tmp_path / "one")


@pytest.fixture
def toy(small_model: Path, tmp_path: Path) -> tuple[str, ...]:
    """The options of a small benchmark on eight images of four classes."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0.4, 0.5, (8, 8, 8, 3)).astype(np.float32)
    y = np.arange(8) % 4
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.05
    np.savez(tmp_path / "data.npz", x=x, y=y)
    method = ("--model", str(small_model), "--classifier", "tests.toys:quadrant_classifier", "--steps", "3")
    return (*method, "--num-latents", "2", "--attack-steps", "3", "--n", "8", "--eps", "0.02")


def benchmark_of(toy: tuple[str, ...]) -> tuple[str, ...]:
    attacks = ("--attack", "pgd@bpda", "--attack", "apgd-ce@transfer", "--defense", "cmap", "--defense", "none")
    return ("benchmark", "--dataset", "data.npz", *toy, *attacks, "--reevaluations", "2")


def same_benchmark(out: Path, one: Path) -> None:
    """The same report and the same records in the same order, up to timings; the same attacked images."""
    assert untimed(lines(out / "records.jsonl")) == untimed(lines(one / "records.jsonl"))
    reports = [untimed(json.loads((folder / "report.json").read_text())) for folder in (out, one)]
    assert reports[0] == reports[1]
    assert reports[0]["complete"]
    attacked = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.safetensors")} for folder in (out, one)
    ]
    assert attacked[0] == attacked[1]
    assert {path.name for path in out.iterdir()} == {path.name for path in one.iterdir()}


@pytest.fixture
def short() -> Iterator[None]:
    """AutoAttack with few iterations; other processes would not have it."""
    with short_autoattack():
        yield


@pytest.mark.usefixtures("short")
def test_a_sharded_benchmark_has_the_same_report(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = benchmark_of(toy)
    assert invoke(*command, "--out", "one").returncode == 0
    first = invoke(*command, "--out", "m1", "--shard", "1/2", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["records"] == "m1/records-1-of-2.jsonl"
    early = invoke("merge", "m1", "--quiet")
    assert (early.returncode, early.stdout.strip()) == (3, "m1/report.html")
    assert "shard 2/2 is missing" in early.stderr
    assert invoke(*command, "--out", "m2", "--shard", "2/2").returncode == 0
    merged = invoke("merge", "m1", "m2", "--out", "two", "--fail-under", "1", "--json")
    assert merged.returncode == 1, merged.stderr
    document = json.loads(merged.stdout)
    assert (document["exit_code"], document["missing"], document["there"]) == (1, [], document["listed"])
    assert document["missed"]
    whole = msgspec.json.decode(merged.stdout, type=MergedBenchmarkOutput)
    assert (whole.schema, whole.command, whole.failures) == ("cmap.benchmark-result/1", "benchmark", ())
    assert whole.report["headline"]["defense"] == "cmap"
    same_benchmark(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_benchmark_of_torchrun_has_the_same_report(
    invoke: Run, torchrun: Launch, toy: tuple[str, ...], tmp_path: Path
) -> None:
    command = benchmark_of(toy)
    assert invoke(*command, "--out", "one").returncode == 0
    run = torchrun(2, *command, "--out", "three", "--fail-under", "0", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["exit_code"] == 0
    same_benchmark(tmp_path / "three", tmp_path / "one")


@pytest.mark.usefixtures("short")
def test_a_benchmark_goes_on_with_another_number_of_shards(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = benchmark_of(toy)
    assert invoke(*command, "--out", "one").returncode == 0
    assert invoke(*command, "--out", "two", "--shard", "2/3").returncode == 0
    path = tmp_path / "two" / "records-2-of-3.jsonl"
    path.write_text(path.read_text()[:-40])  # a kill in the middle of a line
    before = path.read_bytes()
    assert invoke(*command, "--out", "two", "--shard", "1/2").returncode == 0
    assert path.read_bytes() == before
    assert invoke(*command, "--out", "two").returncode == 0
    same_benchmark(tmp_path / "two", tmp_path / "one")


def test_a_sharded_attack_leaves_the_same_pictures(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = ("attack", "data.npz", *toy, "--attack", "pgd@transfer")
    one = json.loads(invoke(*command, "--out", "one", "--json").stdout)
    for index in (1, 2):
        run = invoke(*command, "--out", "two", "--shard", f"{index}/2")
        assert run.returncode == 0, run.stderr
    merged = invoke("merge", "two", "--json")
    assert merged.returncode == 0, merged.stderr
    document = json.loads(merged.stdout)
    assert document["images"] == 8
    assert document["png_success"] == one["png_success"]
    same_attack(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_an_attack_of_torchrun_leaves_the_same_pictures(
    invoke: Run, torchrun: Launch, toy: tuple[str, ...], tmp_path: Path
) -> None:
    command = ("attack", "data.npz", *toy, "--attack", "pgd@transfer")
    one = json.loads(invoke(*command, "--out", "one", "--json").stdout)
    run = torchrun(2, *command, "--out", "three", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["png_success"] == one["png_success"]
    same_attack(tmp_path / "three", tmp_path / "one")


def same_attack(out: Path, one: Path) -> None:
    """The same manifest and the same pictures, and nothing else left."""
    assert untimed(lines(out / "manifest.jsonl")) == untimed(lines(one / "manifest.jsonl"))
    assert pictures(out) == pictures(one)
    assert {path.name for path in out.iterdir()} == {path.name for path in one.iterdir()}
