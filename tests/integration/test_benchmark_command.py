"""``cmap benchmark`` and ``cmap attack`` as processes, on toys that are quick to attack."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.conftest import Run
from tests.toys import QuadrantClassifier

ROOT = str(Path(__file__).parents[2])
TIMING = {"seconds"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve 8×8 images of four classes, each with one quarter a little brighter."""
    generator = np.random.default_rng(0)
    x = generator.uniform(0.4, 0.5, (12, 8, 8, 3)).astype(np.float32)
    y = np.arange(12) % 4
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 0.05
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "data.npz"


@pytest.fixture
def toy(small_model: Path, data: Path) -> tuple[str, ...]:
    return (
        "--dataset",
        str(data),
        "--n",
        "12",
        "--model",
        str(small_model),
        "--classifier",
        "tests.toys:quadrant_classifier",
        "--steps",
        "3",
        "--num-latents",
        "2",
        "--reevaluations",
        "3",
        "--attack-steps",
        "4",
        "--queries",
        "10",
        "--eps",
        "0.02",
    )


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


def test_every_access_level_in_one_report(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    attacks = ("apgd-ce@transfer", "pgd@surrogate", "pgd@bpda", "pgd@white-box", "square@black-box")
    chosen = [argument for attack in attacks for argument in ("--attack", attack)]
    run = cmap("benchmark", *toy, *chosen, "--defense", "cmap", "--defense", "none", "--out", "o", PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    assert "Robust accuracy" in run.stdout
    assert "would take about" in run.stderr
    found = records(tmp_path / "o")
    per = {(r["defense"], r["attack"], r["access"]) for r in found if not r["control"]}
    assert per == {
        *(("cmap", *attack.split("@")) for attack in attacks),
        ("cmap", "clean", None),
        ("none", "clean", None),
        ("none", "apgd-ce", "transfer"),
    }
    assert {len(r["draws"]) for r in found if r["defense"] == "cmap"} == {3}
    assert {(r["attack"], r["access"], r["eps"]) for r in found if r["control"]} == {
        ("noise", "black-box", "0.02"),
        ("fgsm", "surrogate", "0.02"),
        ("fgsm", "bpda", "0.02"),
        ("fgsm", "white-box", "0.02"),
        ("pgd", "bpda", "0.5"),
    }
    for record in found:
        if record["file"]:
            tensors = load_file(tmp_path / "o" / record["file"])
            x, x_adv = (tensors[name][record["row"]] for name in ("x", "x_adv"))
            assert float((x_adv - x).abs().max()) == pytest.approx(record["distance"])
            assert record["distance"] <= record["eps_value"] + 1e-6
            assert float(x_adv.min()) >= 0
            assert float(x_adv.max()) <= 1
    report = json.loads((tmp_path / "o" / "report.json").read_text())
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
    assert "<html" in (tmp_path / "o" / "report.html").read_text()


def test_no_defense_is_pyautoattack_itself(cmap: Run, toy: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    import pyautoattack

    run = cmap(
        "benchmark", *toy, "--defense", "none", "--attack", "autoattack", "--seed", "3", "--out", "o", PYTHONPATH=ROOT
    )
    assert run.returncode == 0, run.stderr
    with np.load(data) as arrays:
        x = torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2).contiguous()
        y = torch.from_numpy(arrays["y"]).long()
    network = QuadrantClassifier().eval()
    attacked = [r for r in records(tmp_path / "o") if r["attack"] == "autoattack"]
    assert len(attacked) == 12
    for start in (0, 8):
        part = slice(start, start + 8)
        direct = pyautoattack.AutoAttack(network, norm="Linf", eps=0.02, seed=3)
        direct.apgd_targeted.n_target_classes = direct.fab.n_target_classes = 3  # all there are
        expected, _ = direct.run_standard_evaluation(x[part], y[part], batch_size=8)
        for record in attacked[part]:
            tensors = load_file(tmp_path / "o" / record["file"])
            assert torch.equal(tensors["x_adv"][record["row"]], expected[record["row"]])
            right = int(network(expected[record["row"]][None]).argmax()) == record["label"]
            assert (record["draws"] == [record["label"]]) == right


def test_conditions_for_ci(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = ("benchmark", *toy, "--attack", "pgd@transfer", "--out", "o")
    run = cmap(*command, "--json", "--fail-under", "0.99", PYTHONPATH=ROOT)
    assert run.returncode == 1
    document = json.loads(run.stdout)
    assert document["exit_code"] == 1
    assert document["missed"][0].startswith("robust accuracy is")
    assert "no attack of this run went through the defence" in run.stdout.lower()
    loose = cmap("benchmark", "--report-only", "o", "--fail-under", "0", "--quiet", PYTHONPATH=ROOT)
    assert (loose.returncode, loose.stdout.strip()) == (0, "o/report.html")
    clean = cmap("benchmark", "--report-only", "o", "--fail-under-clean", "1", "--fail-on", "interval", "-q")
    assert clean.returncode == 1
    assert "lower end of the 95 % interval" in clean.stderr
    other = cmap(*command, "--seed", "1", PYTHONPATH=ROOT)
    assert other.returncode == 2
    assert "seed was 0 and is now 1" in other.stderr


def test_wrong_options_are_all_named(cmap: Run, toy: tuple[str, ...]) -> None:
    run = cmap("benchmark", *toy, "--attack", "magic", "--attack", "square@bpda", "--norm", "L7", "--unroll", "none")
    assert run.returncode == 2
    for text in ("no attack magic", "square cannot have the access bpda", "--norm L7", "--unroll none"):
        assert text in run.stderr
    run = cmap("benchmark", *toy, "--defense", "prayer")
    assert (run.returncode, "there is no defence prayer" in run.stderr) == (2, True)


def test_a_dry_run_says_what_it_would_cost(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    run = cmap("benchmark", *toy, "--attack", "pgd", "--out", "o", "--dry-run", "--json", PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["settings"]["attacks"] == ["pgd@transfer", "pgd@bpda", "pgd@white-box"]
    assert 0 < document["estimate"]["seconds"] < document["estimate"]["thorough"]
    assert not (tmp_path / "o").exists()


def test_kill_9_at_random_moments_changes_nothing(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    command = ("benchmark", *toy, "--attack", "pgd@bpda", "--attack", "apgd-ce@transfer", "--chunk", "1")
    assert cmap(*command, "--out", "whole", PYTHONPATH=ROOT).returncode == 0
    moments = random.Random(0)
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "cmap_cli", *command, "--out", "killed", "--quiet"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ROOT, "CMAP_DEVICE": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lines = tmp_path / "killed" / "records.jsonl"
        before = len(lines.read_text().splitlines()) if lines.exists() else 0
        while process.poll() is None and (not lines.exists() or len(lines.read_text().splitlines()) <= before):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.15))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed
    with lines.open("a") as file:
        file.write('{"half a line')
    assert cmap(*command, "--out", "killed", PYTHONPATH=ROOT).returncode == 0

    def whole(folder: str) -> list[str]:
        kept = [{k: v for k, v in record.items() if k not in TIMING} for record in records(tmp_path / folder)]
        return sorted(json.dumps(record, sort_keys=True) for record in kept)

    assert whole("killed") == whole("whole")
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("killed", "whole")]
    assert without_timing(reports[0]) == without_timing(reports[1])


def test_attack_writes_floats_pictures_and_a_manifest(
    cmap: Run, toy: tuple[str, ...], data: Path, tmp_path: Path
) -> None:
    options = [*without(toy, "--dataset", "--reevaluations", "--eps"), "--eps", "0.04"]
    run = cmap("attack", data, *options, "--attack", "pgd@transfer", "--out", "o", PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
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
    written = "o/adversarial/pgd-transfer-Linf-0.04/000000.safetensors"
    options = [*without(toy, "--dataset", "--n"), "--dataset", written, "--n", "8"]
    again = cmap("benchmark", *options, "--attack", "noise", "--out", "p", PYTHONPATH=ROOT)
    assert again.returncode == 0, again.stderr


def test_attack_takes_the_prediction_where_there_is_no_label(
    cmap: Run, toy: tuple[str, ...], images: Path, data: Path, tmp_path: Path
) -> None:
    options = without(toy, "--dataset", "--reevaluations", "--n")
    run = cmap("attack", images, *options, "--attack", "fgsm@transfer", "--out", "o", "--json", PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    assert "away from what the classifier sees" in run.stderr
    assert json.loads(run.stdout)["images"] == 5
    lines = [json.loads(line) for line in (tmp_path / "o" / "manifest.jsonl").read_text().splitlines()]
    assert all(line["label_is_prediction"] for line in lines)


def test_defences_side_by_side_in_every_norm(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    four = [argument for name in ("cmap", "onestep", "jpeg", "none") for argument in ("--defense", name)]
    for norm, eps in (("L2", "0.3"), ("l1", "3")):
        options = [*without(toy, "--eps", "--n"), "--n", "4", "--norm", norm, "--eps", eps, "--out", norm]
        run = cmap("benchmark", *options, *four, "--attack", "pgd", "--attack", "apgd-ce", PYTHONPATH=ROOT)
        assert run.returncode == 0, run.stderr
        report = json.loads((tmp_path / norm / "report.json").read_text())
        assert [one["defense"] for one in report["defenses"]] == ["cmap", "onestep", "jpeg", "none"]
        assert report["complete"]


def test_the_papers_protocol_is_labelled_as_such(cmap: Run, toy: tuple[str, ...], tmp_path: Path) -> None:
    options = [*without(toy, "--n"), "--n", "2", "--protocol", "paper", "--attack", "pgd", "--out", "o"]
    run = cmap("benchmark", *options, PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["headline"]["access"] == ["surrogate"]
    assert any(warning.startswith("Published protocol") for warning in report["warnings"])


def test_attack_takes_what_purify_takes(cmap: Run, toy: tuple[str, ...], images: Path, tmp_path: Path) -> None:
    options = (
        *without(toy, "--dataset", "--reevaluations", "--n"),
        "--attack",
        "fgsm@transfer",
        "--out",
        "o",
        "--quiet",
    )
    run = cmap("attack", "-", *options, stdin="in/a.png\nin/b.png\n", PYTHONPATH=ROOT)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["o/images/in/a.png", "o/images/in/b.png"]
    run = cmap("attack", "in/a.png", "in/a.png", *options, PYTHONPATH=ROOT)
    assert (run.returncode, "two images are called" in run.stderr) == (2, True)
