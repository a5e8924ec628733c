"""``cmap benchmark`` and ``cmap attack`` on toys that are quick to attack."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cmap_cli.attacks.pgd import PGD, paper_pgd
from cmap_cli.benchmarking.campaign import Task
from cmap_cli.benchmarking.run import benchmark
from cmap_cli.benchmarking.watch import OutOfTimeError, Watch
from tests.attack_toys import short_autoattack
from tests.conftest import Run
from tests.forked import ForkedProcess
from tests.toys import QuadrantClassifier

ROOT = str(Path(__file__).parents[2])
TIMING = {"seconds"}
ACCESSES = ("apgd-ce@transfer", "pgd@surrogate", "pgd@bpda", "pgd@white-box", "square@black-box")


def write_data(path: Path, count: int = 12) -> Path:
    """8×8 images of four classes, each with one quarter a little brighter."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0.4, 0.5, (12, 8, 8, 3)).astype(np.float32)[:count]
    y = np.arange(count) % 4
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.05
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data.npz")


@pytest.fixture
def toy(small_model: Path, data: Path) -> Iterator[tuple[str, ...]]:
    method = ("--model", str(small_model), "--classifier", "tests.toys:quadrant_classifier", "--steps", "3")
    budget = ("--reevaluations", "3", "--attack-steps", "4", "--queries", "10", "--eps", "0.02")
    with short_autoattack():
        yield ("--dataset", str(data), "--n", "12", *method, "--num-latents", "2", *budget)


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with every access, made once by the library; tests only read it, or work on a copy."""
    folder = tmp_path_factory.mktemp("run")
    with short_autoattack():
        result = benchmark(
            str(write_data(folder / "data.npz")),
            out=folder / "o",
            n=12,
            model=str(small_model),
            classifier="tests.toys:quadrant_classifier",
            steps=3,
            num_latents=2,
            reevaluations=3,
            attack_steps=4,
            queries=10,
            eps="0.02",
            attack=ACCESSES,
            chunk=12,
            defense=("cmap", "none"),
            device="cpu",
        )
    assert result.report is not None
    return result.folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run in ``tmp_path`` called ``o``."""
    return Path(shutil.copytree(run, tmp_path / "o"))


def without(arguments: tuple[str, ...], *names: str) -> list[str]:
    """Options and their values, but for those named."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [argument for name, value in pairs if name not in names for argument in (name, value)]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def without_timing(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_timing(inner) for key, inner in value.items() if key not in {*TIMING, "provenance"}}
    return [without_timing(inner) for inner in value] if isinstance(value, list) else value


def test_every_access_level_in_one_report(run: Path) -> None:
    found = records(run)
    per = {(r["defense"], r["attack"], r["access"]) for r in found if not r["control"]}
    assert per == {
        *(("cmap", *attack.split("@")) for attack in ACCESSES),
        ("cmap", "clean", None),
        ("none", "clean", None),
        ("none", "apgd-ce", "transfer"),
    }
    assert {len(r["draws"]) for r in found if r["defense"] == "cmap"} == {3}
    assert {(r["attack"], r["access"], r["eps"]) for r in found if r["control"]} == {
        ("noise", "transfer", "0.02"),
        ("fgsm", "surrogate", "0.02"),
        ("fgsm", "bpda", "0.02"),
        ("fgsm", "white-box", "0.02"),
        ("pgd", "bpda", "0.5"),
    }
    for record in found:
        if record["file"]:
            tensors = load_file(run / record["file"])
            x, x_adv = (tensors[name][record["row"]] for name in ("x", "x_adv"))
            assert float((x_adv - x).abs().max()) == pytest.approx(record["distance"])
            assert record["distance"] <= record["eps_value"] + 1e-6
            assert float(x_adv.min()) >= 0
            assert float(x_adv.max()) <= 1


def test_the_report_of_every_access_level(run: Path) -> None:
    found, report = records(run), json.loads((run / "report.json").read_text())
    assert report["complete"]
    names = {flag["name"] for flag in report["flags"]}
    assert {"larger-eps", "chance", "single-step", "weaker-access", "noise", "zero-gradients"} <= names
    worst = {
        image: min(
            2 * sum(d == r["label"] for d in r["draws"]) > len(r["draws"])
            for r in found
            if r["image"] == image and r["defense"] == "cmap" and not r["control"] and r["attack"] != "clean"
        )
        for image in range(12)
    }
    assert report["headline"]["accuracy"]["vote"]["right"] == sum(worst.values())
    assert "<html" in (run / "report.html").read_text()
    assert any(sentence.startswith("pgd has 4 of 100 steps") for sentence in report["weak"])
    assert any("one draw" in sentence for sentence in report["weak"])
    assert any("points wide" in sentence for sentence in report["weak"])


def test_no_defense_is_pyautoattack_itself(
    invoke: Run, small_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images fall and one withstands all four attacks; fewer queries than Square's own 5000, on both sides."""
    import pyautoattack

    class FewerQueries(pyautoattack.AutoAttack):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.square.n_queries = 100

    monkeypatch.setattr(pyautoattack, "AutoAttack", FewerQueries)
    chosen = ("--dataset", data, "--n", "3", "--eps", "0.025", "--classifier", "tests.toys:quadrant_classifier")
    command = ("benchmark", "--model", small_model, *chosen, "--chunk", "2", "--defense", "none", "--seed", "3")
    run = invoke(*command, "--attack", "autoattack", "--reevaluations", "3", "--out", "o")
    assert run.returncode == 0, run.stderr
    with np.load(data) as arrays:
        x = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2).contiguous()
        y = torch.from_numpy(arrays["y"]).long()
    network = QuadrantClassifier().eval()
    attacked = [r for r in records(tmp_path / "o") if r["attack"] == "autoattack"]
    withstood = []
    for record in attacked:
        direct = pyautoattack.AutoAttack(network, norm="Linf", eps=0.025, seed=3)
        direct.apgd_targeted.n_target_classes = direct.fab.n_target_classes = 3  # all there are
        here = slice(record["image"], record["image"] + 1)
        expected, _ = direct.run_standard_evaluation(x[here], y[here], batch_size=1)
        tensors = load_file(tmp_path / "o" / record["file"])
        assert torch.equal(tensors["x_adv"][record["row"]], expected[0])
        right = int(network(expected).argmax()) == record["label"]
        assert (record["draws"] == [record["label"]]) == right
        withstood.append(right)
    assert withstood == [False, True, False]


def test_a_threshold_that_is_missed_fails(invoke: Run, toy: tuple[str, ...]) -> None:
    command = ("benchmark", *without(toy, "--n"), "--n", "4", "--attack", "pgd@bpda", "--out", "o")
    run = invoke(*command, "--json", "--fail-under", "1")
    assert run.returncode == 1, run.stderr
    document = json.loads(run.stdout)
    assert document["exit_code"] == 1
    assert document["missed"][0].startswith("robust accuracy is")
    assert "would take about" not in run.stderr
    other = invoke(*command, "--seed", "1")
    assert other.returncode == 2
    assert "seed was 0 and is now 1" in other.stderr


def test_conditions_on_a_folder(invoke: Run, copy: Path) -> None:
    loose = invoke("benchmark", "--report-only", "o", "--fail-under", "0", "--quiet")
    assert (loose.returncode, loose.stdout.strip()) == (0, "o/report.html")
    plain = invoke("benchmark", "--report-only", "o")
    assert "Robust accuracy" in plain.stdout
    assert "weak budget: pgd has 4 of 100 steps" in plain.stdout
    assert "| undefended | " in plain.stdout
    verdict = json.loads((copy / "report.json").read_text())["verdict"]
    assert plain.stdout.splitlines()[-1 - len(verdict) :] == [*verdict, "report: o/report.html"]
    clean = invoke("benchmark", "--report-only", "o", "--fail-under-clean", "1", "--fail-on", "interval", "-q")
    assert clean.returncode == 1
    assert "lower end of the 95 % interval" in clean.stderr
    weak = invoke("benchmark", "--report-only", "o", "--fail-on-weak", "--json")
    assert weak.returncode == 1
    assert "weak budget: " in json.loads(weak.stdout)["missed"][0]


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(lambda record: record["attack"] == "square", id="an attack"),
        pytest.param(lambda record: (record["attack"], record["image"]) == ("pgd", 11), id="an image"),
        pytest.param(lambda record: record["attack"] == "noise", id="a control"),
        pytest.param(lambda record: record["control"] and record["image"] == 11, id="an image of the controls"),
    ],
)
def test_a_run_that_is_not_complete_passes_nothing(
    invoke: Run, copy: Path, lost: Callable[[dict[str, Any]], bool]
) -> None:
    kept = [json.dumps(record) for record in records(copy) if not lost(record)]
    (copy / "records.jsonl").write_text("\n".join(kept) + "\n")
    gate = invoke("benchmark", "--report-only", "o", "--fail-under", "0", "--quiet")
    assert gate.returncode == 1
    assert "the run is not complete, so it cannot pass" in gate.stderr
    assert invoke("benchmark", "--report-only", "o", "--quiet").returncode == 0
    merged = invoke("merge", "o", "--fail-under", "0", "--quiet")
    assert merged.returncode == 1


def test_wrong_options_are_all_named(invoke: Run, toy: tuple[str, ...]) -> None:
    wrong = ("--attack", "magic", "--attack", "square@bpda", "--norm", "L7", "--unroll", "none", "--smoothing", "inf")
    run = invoke("benchmark", *toy, *wrong, "--defense", "prayer", "--attack", "pgd@")
    assert run.returncode == 2
    for text in (
        "no attack 'magic'",
        "square cannot have the access bpda",
        "--norm L7",
        "--unroll none",
        "--smoothing inf",
        "no defence 'prayer'",
        "--attack pgd@ names no access",
    ):
        assert text in run.stderr


def test_runs_that_cannot_pass_are_refused_before_they_start(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    run = invoke("benchmark", *toy, "--attack", "pgd@transfer", "--fail-under", "0.9", "--out", "o")
    assert (run.returncode, "this run has none" in run.stderr) == (2, True)
    run = invoke("benchmark", *toy, "--attack", "noise", "--access", "transfer", "--fail-under", "0.9", "--out", "o")
    assert (run.returncode, "this run has none" in run.stderr) == (2, True)
    run = invoke("benchmark", *toy, "--attack", "pgd@bpda", "--require-access", "white-box", "--out", "o")
    assert (run.returncode, "add --attack NAME@white-box" in run.stderr) == (2, True)
    run = invoke("benchmark", *toy, "--attack", "pgd@bpda", "--require-access", "whitebox", "--out", "o")
    assert (run.returncode, "did you mean white-box?" in run.stderr) == (2, True)
    for threshold in ("1.5", "x", "white-box@8=", "white-box@class:cat=0.1"):
        assert invoke("benchmark", *toy, "--fail-under", threshold).returncode == 2
    onnx = [*without(toy, "--classifier"), "--classifier", "net.onnx"]
    run = invoke("benchmark", *onnx, "--attack", "pgd@bpda")
    assert (run.returncode, "has no gradients, which pgd@bpda need" in run.stderr) == (2, True)
    assert not (tmp_path / "o").exists()


def test_a_small_data_set_needs_no_n(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    write_data(tmp_path / "three.npz", 3)
    options = [*without(toy, "--dataset", "--n"), "--dataset", str(tmp_path / "three.npz")]
    run = invoke("benchmark", *options, "--attack", "fgsm@transfer", "--out", "o")
    assert run.returncode == 0, run.stderr
    assert "3 images of" in run.stderr
    run = invoke("benchmark", *options, "--n", "5", "--attack", "fgsm@transfer", "--out", "o")
    assert (run.returncode, "has 3 images, not 5" in run.stderr) == (2, True)


def test_a_dry_run_says_what_it_would_cost(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    run = invoke("benchmark", *toy, "--attack", "pgd", "--out", "o", "--dry-run", "--json")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["settings"]["attacks"] == ["pgd@transfer", "pgd@bpda", "pgd@white-box"]
    estimate = document["estimate"]
    assert 0 < estimate["remaining"]["low"] < estimate["remaining"]["high"] < estimate["thorough"]["high"]
    assert (estimate["done"], estimate["tasks"]) == (0, 12 * 9)
    assert not (tmp_path / "o").exists()


def test_a_dry_run_counts_what_is_finished(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = ("benchmark", *without(toy, "--n"), "--n", "3", "--attack", "pgd@bpda", "--out", "o")
    assert invoke(*command).returncode == 0
    lines = tmp_path / "o" / "records.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:7]))
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    run = invoke(*command, "--dry-run")
    assert "7 of 15 tasks are there already" in run.stderr
    estimate = json.loads(invoke(*command, "--dry-run", "--json").stdout)["estimate"]
    assert (estimate["done"], estimate["tasks"]) == (7, 15)
    fresh = json.loads(invoke(*command, "--dry-run", "--json", "--overwrite").stdout)["estimate"]
    assert fresh["done"] == 0
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()} == before
    other = invoke(*command, "--seed", "1", "--dry-run")
    assert (other.returncode, "seed was 0 and is now 1" in other.stderr) == (2, True)


def test_a_dry_run_of_attack(invoke: Run, toy: tuple[str, ...], data: Path) -> None:
    options = without(toy, "--dataset", "--reevaluations", "--n")
    command = ("attack", data, *options, "--n", "2", "--attack", "fgsm@transfer", "--out", "o")
    document = json.loads(invoke(*command, "--dry-run", "--json").stdout)
    assert (document["schema"], document["estimate"]["tasks"]) == ("cmap.attack/1", 4)
    assert invoke(*command, "--quiet").returncode == 0
    run = invoke(*command, "--dry-run")
    assert (run.returncode, "nothing is left to do" in run.stderr) == (0, True)


def test_a_run_with_a_budget_keeps_its_plan(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    options = without(toy, "--n", "--reevaluations", "--attack-steps", "--queries")
    command = ("benchmark", *options, "--attack", "pgd@bpda", "--out", "o")
    dry = json.loads(invoke(*command, "--budget", "5m", "--dry-run", "--json").stdout)["estimate"]
    assert dry["remaining"]["high"] <= 290
    assert dry["chosen"]["n"] >= 2
    assert not (tmp_path / "o").exists()
    small = ("--n", "2", "--attack-steps", "2", "--reevaluations", "1", "--eot", "1")
    run = invoke(*command, *small, "--budget", "5m", "--control-images", "1")
    assert run.returncode == 0, run.stderr
    assert "points wide if no image stays correct" in run.stderr
    stored = json.loads((tmp_path / "o" / "benchmark.json").read_text())
    assert stored["provenance"]["plan"] == {"seconds": 300.0, "chosen": {}}
    assert (stored["settings"]["n"], stored["settings"]["budget"]["steps"]) == (2, 2)
    again = invoke(*command, *small, "--budget", "5m", "--control-images", "1")
    assert (again.returncode, "nothing is left to do" in again.stderr) == (0, True)
    other = invoke(*command, *small, "--budget", "6m")
    assert (other.returncode, "was planned for 300 s, not for 360 s" in other.stderr) == (2, True)
    for wrong in (("--budget", "soon"), ("--budget", "5m", "--shard", "1/2")):
        assert invoke(*command, *wrong).returncode == 2


def test_a_run_that_its_time_is_too_short_for_passes_nothing(
    invoke: Run, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate says that it fits; then each call of the classifier takes a second by the clock."""
    monkeypatch.setattr("cmap_cli.benchmarking.plan.RESERVE", 0.0)
    predict, clock, ahead = QuadrantClassifier.forward, time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead)
    began = time.monotonic()

    def slow(self: QuadrantClassifier, x: torch.Tensor) -> torch.Tensor:
        nonlocal ahead
        if (tmp_path / "o" / "records.jsonl").exists():
            ahead += 1.0
        return predict(self, x)

    monkeypatch.setattr(QuadrantClassifier, "forward", slow)
    small = ("--n", "6", "--attack-steps", "5", "--reevaluations", "1", "--eot", "1", "--control-images", "1")
    command = ("benchmark", *without(toy, "--n", "--reevaluations", "--attack-steps"), *small, "--attack", "pgd@bpda")
    limited = (*command, "--budget", "30s", "--out", "o")
    run = invoke(*limited, "--json", "--fail-under", "0")
    assert time.monotonic() - began < 60
    assert run.returncode == 1, run.stderr
    document = json.loads(run.stdout)
    assert document["exit_code"] == 1
    assert "the run is not complete, so it cannot pass: the time of --budget 30s was over" in document["missed"][0]
    assert not document["report"]["complete"]
    kept = records(tmp_path / "o")
    assert kept
    monkeypatch.setattr(QuadrantClassifier, "forward", predict)
    codes = [invoke(*limited, "--quiet").returncode for _ in range(3)]  # on a slow machine not at once
    assert set(codes) <= {0, 3}
    assert codes[-1] == 0
    assert records(tmp_path / "o")[: len(kept)] == kept


def test_a_run_with_a_budget_keeps_the_images_that_it_has_time_for(
    invoke: Run, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is over while the sixth image is attacked."""
    begin = Watch.begin

    def late(self: Watch, group: tuple[Task, ...]) -> None:
        if group[0].image == 5 and group[0].item.spec is not None:
            raise OutOfTimeError
        begin(self, group)

    small = ("--attack-steps", "2", "--reevaluations", "1", "--eot", "1", "--control-images", "16")
    command = ("benchmark", *without(toy, "--n", "--reevaluations", "--attack-steps"), *small, "--attack", "pgd@bpda")
    assert invoke(*command, "--n", "5", "--out", "five", "--quiet").returncode == 0
    monkeypatch.setattr(Watch, "begin", late)
    run = invoke(*command, "--budget", "10m", "--out", "o", "--fail-under", "0")
    assert run.returncode == 0, run.stderr
    assert "12 images of" in run.stderr
    assert "keeping the 5 images that the time sufficed for" in run.stderr
    assert [without_timing(each) for each in records(tmp_path / "o")] == [
        without_timing(each) for each in records(tmp_path / "five")
    ]
    assert len(list((tmp_path / "o").rglob("*.safetensors"))) == len(list((tmp_path / "five").rglob("*.safetensors")))
    stored, plain = (json.loads((tmp_path / name / "benchmark.json").read_text()) for name in ("o", "five"))
    assert stored["settings"] == plain["settings"]
    assert stored["provenance"]["records"] == plain["provenance"]["records"]
    again = invoke(*command, "--budget", "10m", "--out", "o")
    assert (again.returncode, "nothing is left to do" in again.stderr) == (0, True)


def test_images_attacked_at_once_do_not_change_the_results(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    attacks = ("pgd@white-box", "apgd-ce@bpda", "square@black-box", "disruption", "noise")
    chosen = [argument for name in attacks for argument in ("--attack", name)]
    command = ("benchmark", *without(toy, "--n"), "--n", "3", *chosen, "--disruption-steps", "5")
    for chunk, out in (("1", "one"), ("2", "two")):
        run = invoke(*command, "--chunk", chunk, "--out", out)
        assert run.returncode == 0, run.stderr
    one, two = ({(r["item"], r["image"], r["defense"]): r for r in records(tmp_path / name)} for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, record in one.items():
        if record["file"]:
            pair = [load_file(tmp_path / folder / record["file"])["x_adv"] for folder in ("one", "two")]
            torch.testing.assert_close(*pair, rtol=0, atol=1e-4)
        assert two[key]["draws"] == record["draws"]
    # a run that was begun with one goes on with another
    lines = (tmp_path / "one" / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "one" / "records.jsonl").write_text("".join(lines[:18]))
    assert invoke(*command, "--chunk", "3", "--out", "one").returncode == 0
    assert len(records(tmp_path / "one")) == len(lines)


def test_an_interruption_loses_at_most_one_image(
    toy: tuple[str, ...], small_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C arrives in the middle of the fourth attack: of the records of the tasks before it none is lost."""
    calls = 0
    predict = QuadrantClassifier.forward

    def interrupted(self: QuadrantClassifier, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 200:
            raise KeyboardInterrupt
        return predict(self, x)

    monkeypatch.setattr(QuadrantClassifier, "forward", interrupted)
    options: dict[str, Any] = {"model": str(small_model), "classifier": "tests.toys:quadrant_classifier", "steps": 3}
    options |= {"num_latents": 2, "reevaluations": 3, "attack_steps": 10, "eps": "0.02", "attack": "pgd@bpda", "n": 6}
    with pytest.raises(KeyboardInterrupt):
        benchmark(str(data), out=tmp_path / "o", device="cpu", **options)
    kept = records(tmp_path / "o")
    assert kept
    assert len({(r["item"], r["image"]) for r in kept}) == len(kept)
    files = {path.relative_to(tmp_path / "o").as_posix() for path in (tmp_path / "o").rglob("*.safetensors")}
    assert {r["file"] for r in kept if r["file"]} == files  # what was attacked is recorded
    calls = 1000
    begun = {(r["item"], r["image"]): r["seconds"] for r in kept}
    benchmark(str(data), out=tmp_path / "o", device="cpu", **options)
    assert {key: r["seconds"] for r in records(tmp_path / "o") if (key := (r["item"], r["image"])) in begun} == begun


def test_kill_9_at_random_moments_changes_nothing(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    small = [*without(toy, "--n"), "--n", "4", "--chunk", "1"]
    command = ("benchmark", *small, "--attack", "pgd@bpda", "--attack", "fgsm@transfer")
    assert invoke(*command, "--out", "whole").returncode == 0
    moments = random.Random(0)
    killed = 0
    for _ in range(2):
        process = ForkedProcess(
            [*command, "--out", "killed", "--quiet"], tmp_path, {**os.environ, "CMAP_DEVICE": "cpu"}
        )
        lines = tmp_path / "killed" / "records.jsonl"
        before = len(lines.read_text().splitlines()) if lines.exists() else 0
        while process.poll() is None and (not lines.exists() or len(lines.read_text().splitlines()) <= before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed
    with lines.open("a") as file:
        file.write('{"half a line')
    assert invoke(*command, "--out", "killed").returncode == 0

    def whole(folder: str) -> list[str]:
        kept = [{k: v for k, v in record.items() if k not in TIMING} for record in records(tmp_path / folder)]
        return sorted(json.dumps(record, sort_keys=True) for record in kept)

    assert whole("killed") == whole("whole")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("killed", "whole")]
    assert without_timing(reports[0]) == without_timing(reports[1])


def test_attack_writes_floats_pictures_and_a_manifest(
    invoke: Run, toy: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    options = [*without(toy, "--dataset", "--reevaluations", "--eps"), "--eps", "0.04"]
    options_of_attack = [*options, "--attack", "pgd@transfer"]
    run = invoke("attack", data, *options_of_attack, "--out", "o")
    assert run.returncode == 0, run.stderr
    assert "12 images attacked by pgd@transfer into o" in run.stdout
    lines = [json.loads(line) for line in (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    for line in lines:
        tensors = load_file(tmp_path / "o" / line["file"])
        x_adv = tensors["x_adv"][line["row"]]
        with Image.open(tmp_path / "o" / line["png"]) as picture:
            rounded = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        assert float((rounded - x_adv).abs().max()) <= 0.5 / 255 + 1e-6
        assert line["png_success"] == (int(QuadrantClassifier()(rounded[None]).argmax()) != line["label"])
    assert sum(line["success"] for line in lines) >= 6
    with Image.open(tmp_path / "o" / "sheet.png") as sheet:
        assert sheet.width > 300
    written = "o/adversarial/pgd-transfer-Linf-0.04"
    options = [*without(toy, "--dataset", "--n"), "--dataset", written, "--n", "8"]
    again = invoke("benchmark", *options, "--attack", "noise", "--access", "transfer", "--out", "p")
    assert again.returncode == 0, again.stderr
    damaged = next((tmp_path / "o" / "adversarial").rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    refused = invoke("attack", data, *options_of_attack, "--out", "o")
    assert refused.returncode == 2
    assert f"{damaged.relative_to(tmp_path)} is damaged or of another program" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_attack_takes_the_prediction_where_there_is_no_label(
    invoke: Run, toy: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    options = without(toy, "--dataset", "--reevaluations", "--n")
    run = invoke("attack", images, *options, "--attack", "fgsm@transfer", "--out", "o", "--json")
    assert run.returncode == 0, run.stderr
    assert "away from what the classifier sees" in run.stderr
    assert json.loads(run.stdout)["images"] == 5
    lines = [json.loads(line) for line in (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()]
    assert all(line["label_is_prediction"] for line in lines)


def test_defences_side_by_side_in_every_norm(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    four = [argument for name in ("cmap", "onestep", "jpeg", "none") for argument in ("--defense", name)]
    for norm, eps in (("L2", "0.3"), ("l1", "3")):
        options = [*without(toy, "--eps", "--n"), "--n", "2", "--norm", norm, "--eps", eps, "--out", norm]
        run = invoke("benchmark", *options, *four, "--attack", "pgd", "--attack", "fab")
        assert run.returncode == 0, run.stderr
        report = json.loads((tmp_path / norm / "report.json").read_text())
        assert [one["defense"] for one in report["defenses"]] == ["cmap", "onestep", "jpeg", "none"]
        assert report["complete"]


def test_an_attack_that_knows_the_latents_sees_what_the_evaluation_sees(
    invoke: Run, toy: tuple[str, ...], tmp_path: Path
) -> None:
    arguments = [*without(toy, "--n"), "--n", "4", "--control-images", "1", "--defense", "cmap-frozen", "--out", "o"]
    attacks = ("--attack", "pgd@white-box", "--attack", "mdi-pgd@bpda", "--attack", "hammer@white-box", "--no-cascade")
    done = invoke("benchmark", *arguments, *attacks)
    assert done.returncode == 0, done.stderr
    found = [r for r in records(tmp_path / "o") if r["access"] in ("white-box", "bpda") and r["eps"] == "0.02"]
    assert {r["attack"] for r in found} == {"pgd", "mdi-pgd", "hammer", "fgsm"}
    assert all(len(r["draws"]) == 1 for r in found)
    assert all(r["reported_success"] == (r["draws"] != [r["label"]]) for r in found)
    assert any(r["reported_success"] for r in found)


def test_a_class_conditional_model_is_attacked_like_others(invoke: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    arguments = without(toy, "--n", "--model", "--classifier")
    arguments += ["--n", "2", "--model", "tests.toys:ConditionalGaussian", "--control-images", "1", "--out", "o"]
    done = invoke(
        "benchmark", *arguments, "--classifier", "tests.toys:brightness_classifier", "--attack", "pgd@white-box",
        "--attack", "pgd@surrogate", "--attack", "disruption@adaptive", "--disruption-steps", "5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {r["access"] for r in records(tmp_path / "o")} == {None, "white-box", "surrogate", "adaptive", "transfer"}
    assert all(r["gradient"]["zero"] < 1 for r in records(tmp_path / "o") if r["attack"] == "pgd")
    four = invoke("benchmark", *arguments[:-1], "p", "--classifier", "tests.toys:quadrant_classifier")
    assert four.returncode == 2
    assert "is conditioned on 2 classes" in four.stderr
    smoothed = ("--classifier", "tests.toys:brightness_classifier", "--defense", "smoothed")
    refused = invoke("benchmark", *arguments[:-1], "q", *smoothed)
    assert refused.returncode == 2
    assert "does not work with the class-conditional model" in refused.stderr


def test_the_papers_protocol_is_labelled_as_such(
    invoke: Run, toy: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: Any) -> PGD:
        return replace(paper_pgd(*arguments), steps=2, eot=2)

    monkeypatch.setattr("cmap_cli.attacks.pgd.paper_pgd", short)
    options = [*without(toy, "--n", "--steps"), "--n", "1", "--steps", "1", "--protocol", "paper", "--attack", "pgd"]
    run = invoke("benchmark", *options, "--out", "o")
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["headline"]["access"] == ["surrogate"]
    assert any(warning.startswith("Published protocol") for warning in report["warnings"])


def test_attack_takes_what_purify_takes(invoke: Run, toy: tuple[str, ...], images: Path) -> None:
    chosen = ("--attack", "fgsm@transfer", "--out", "o", "--quiet")
    options = (*without(toy, "--dataset", "--reevaluations", "--n"), *chosen)
    run = invoke("attack", "-", *options, stdin="in/a.png\nin/b.png\n")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["o/images/in/a.png", "o/images/in/b.png"]
    run = invoke("attack", "in/a.png", "in/a.png", *options)
    assert (run.returncode, "two images are called" in run.stderr) == (2, True)
