"""``cmap certify`` on classifiers whose exact radius is known."""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest

import cmap_cli
from cmap_cli.benchmarking.certificates.tsv import read_tsv
from cmap_cli.errors import UsageError
from tests.conftest import Run
from tests.forked import ForkedProcess
from tests.toys import write_base

ROOT = Path(__file__).parents[2]
SIDE = 8
D = 3 * SIDE * SIDE
OFFSETS = (-0.03, -0.02, -0.01, -0.004, 0.0, 0.004, 0.01, 0.02, 0.03, 0.04)
"""How far the mean of each image is from 0.5, where the class of the linear classifier changes."""
LINEAR = ("--denoiser", "none", "--classifier", "tests.toys:brightness_classifier")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Grey images of two classes; the last one has the wrong label."""
    x = np.stack([np.full((SIDE, SIDE, 3), 0.5 + offset, dtype=np.float32) for offset in OFFSETS])
    y = np.array([offset > 0 for offset in OFFSETS], dtype=np.int64)
    y[-1] = 0
    np.savez(tmp_path / "grey.npz", x=x, y=y)
    return tmp_path / "grey.npz"


def exact_radius(offset: float) -> float:
    """The distance of a grey image to the plane where the mean is 0.5: |offset|·√d."""
    return abs(offset) * math.sqrt(D)


def records(folder: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return found if timed else [{key: value for key, value in one.items() if key != "seconds"} for one in found]


def report(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return document


def validate(document: dict[str, Any], schema: str) -> None:
    path = ROOT / f"docs/reference/schemas/{schema.replace('/', '-')}.json"
    jsonschema.validate(document, json.loads(path.read_text()), cls=jsonschema.Draft202012Validator)


def test_radii_never_exceed_the_exact_ones_and_approach_them(invoke: Run, data: Path, tmp_path: Path) -> None:
    found = {}
    for samples in (100, 3000):
        run = invoke(
            "certify", "--dataset", data, "--n", "10", *LINEAR, "--procedure", "cohen", "--samples", samples,
            "--selection", "50", "--sigma", "0.5", "--radius", "0.1", "--out", f"cohen-{samples}",
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        found[samples] = records(tmp_path / f"cohen-{samples}")
    for number, offset in enumerate(OFFSETS):
        few, many = found[100][number]["radius"], found[3000][number]["radius"]
        assert few <= exact_radius(offset) + 1e-6
        assert many <= exact_radius(offset) + 1e-6
        assert many >= few - 0.05
        assert exact_radius(offset) - many < 0.08
    assert found[3000][4]["predicted"] is None  # on the plane itself it abstains
    assert (found[3000][9]["predicted"], found[3000][9]["correct"]) == (1, False)


def test_the_sequential_procedure_decides_what_is_true(invoke: Run, data: Path, tmp_path: Path) -> None:
    run = invoke(
        "certify", "--dataset", data, "--n", "10", *LINEAR, "--sigma", "0.25", "--sigma", "0.5", "--radius", "0.1",
        "--radius", "0.2", "--out", "out",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    lines = records(tmp_path / "out")
    assert [(one["image"], one["sigma"]) for one in lines] == [(i, s) for i in range(10) for s in (0.25, 0.5)]
    decided = 0
    for one in lines:
        exact = exact_radius(OFFSETS[one["image"]])
        assert one["radius"] <= exact + 1e-6
        for each in one["decisions"]:
            decided += each["decision"] in ("certified", "refuted")
            if each["decision"] == "certified":
                assert each["radius"] < exact
            if each["decision"] == "refuted":
                assert each["radius"] > exact
        validate(one | {"seconds": 0.0}, "cmap.certificate/1")
    assert decided >= 25
    document = report(tmp_path / "out")
    validate(document, "cmap.certificate-report/1")
    validate(json.loads((tmp_path / "out" / "certify.json").read_text()), "cmap.certify-run/1")
    half = document["results"][1]
    assert half["radii"][0]["certified"]["count"] == sum(
        one["correct"] and one["radius"] >= 0.1 for one in lines if one["sigma"] == 0.5
    )
    assert half["radii"][0]["linf"] == pytest.approx(25.5 / math.sqrt(D))
    assert half["radii"][0]["set_low"] <= half["radii"][0]["certified"]["value"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Certified accuracy" in html
    assert "sigma 0.5" in html
    assert "<script" not in html
    assert "lower bound" in (tmp_path / "out" / "report.md").read_text() + html
    assert "| 0.5 | 0.1 | " in run.stdout


def test_batches_shards_and_resuming_change_nothing(invoke: Run, data: Path, tmp_path: Path) -> None:
    command = ["certify", "--dataset", data, "--n", "10", *LINEAR, "--sigma", "0.5", "--sigma", "1", "--radius", "0.2"]
    assert invoke(*command, "--out", "whole").returncode == 0
    assert invoke(*command, "--out", "small", "--batch-size", "3").returncode == 0
    assert records(tmp_path / "small") == records(tmp_path / "whole")
    for shard in ("1/3", "2/3", "3/3"):
        run = invoke(*command, "--out", "parts", "--shard", shard, "--json")
        assert run.returncode == 0, run.stderr
        validate(json.loads(run.stdout), "cmap.certify/1")
    assert not (tmp_path / "parts" / "records.jsonl").exists()
    run = invoke("merge", "parts", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["report"]["complete"]
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    cut = (tmp_path / "small" / "records.jsonl").read_text()[:-400]
    (tmp_path / "small" / "records.jsonl").write_text(cut)
    assert invoke(*command, "--out", "small").returncode == 0
    assert records(tmp_path / "small") == records(tmp_path / "whole")
    other = invoke(*command, "--out", "small", "--alpha", "0.01")
    assert other.returncode == 2
    assert "alpha was 0.001 and is now 0.01" in other.stderr


def test_a_missing_shard_passes_no_threshold(invoke: Run, data: Path, tmp_path: Path) -> None:
    command = ["certify", "--dataset", data, "--n", "10", *LINEAR, "--sigma", "0.5", "--radius", "0.1"]
    assert invoke(*command, "--out", "parts", "--shard", "1/2").returncode == 0
    run = invoke("merge", "parts", "--fail-under", "0.1=0")
    assert run.returncode == 1
    assert "shard 2/2 is missing" in run.stderr
    assert invoke(*command, "--out", "parts", "--shard", "2/2").returncode == 0
    assert invoke("merge", "parts", "--fail-under", "0.1=0.1").returncode == 0
    assert invoke("merge", "parts", "--fail-under", "0.1=0.99").returncode == 1
    assert invoke("merge", "parts", "--fail-under", "0.5").returncode == 2


def test_kill_9_changes_nothing(invoke: Run, data: Path, tmp_path: Path) -> None:
    command = [
        "certify", "--dataset", str(data), "--n", "10", *LINEAR, "--procedure", "cohen", "--samples", "1500",
        "--sigma", "0.5", "--batch-size", "500",
    ]  # fmt: skip
    process = ForkedProcess([*command, "--out", "killed", "--quiet"], tmp_path, {**os.environ, "CMAP_DEVICE": "cpu"})
    lines = tmp_path / "killed" / "records.jsonl"
    until = time.monotonic() + 120
    while not (lines.exists() and lines.read_text().count("\n") >= 2) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = lines.read_text().splitlines()[:2]
    assert invoke(*command, "--out", "killed").returncode == 0
    assert lines.read_text().splitlines()[:2] == before
    assert invoke(*command, "--out", "whole").returncode == 0
    assert records(tmp_path / "killed") == records(tmp_path / "whole")


def test_thresholds(invoke: Run, data: Path) -> None:
    command = ["certify", "--dataset", data, "--n", "10", *LINEAR, "--sigma", "0.5", "--radius", "0.1", "--out", "out"]
    assert invoke(*command, "--fail-under", "0.1=0.3").returncode == 0
    run = invoke(*command, "--fail-under", "0.1=0.95", "--json")
    document = json.loads(run.stdout)
    validate(document, "cmap.certify/1")
    assert (run.returncode, document["exit_code"]) == (1, 1)
    assert document["missed"][0].startswith("certified accuracy at ℓ2 0.1 is 0.")
    again = invoke("certify", "--report-only", "out", "--fail-under", "0.1=0.3", "--fail-on", "interval", "--quiet")
    assert again.returncode in (0, 1)
    assert again.stdout.strip() == str(Path("out/report.html"))


def test_wrong_options_are_named(invoke: Run, data: Path) -> None:
    base = ["certify", "--dataset", data, *LINEAR]
    for arguments, text in (
        (["--sigma", "0"], "--sigma 0 is not above 0"),
        (["--radius", "-1"], "--radius -1 is not a finite number"),
        (["--alpha", "0.7"], "--alpha 0.7"),
        (["--fail-under", "0.3"], "is not a radius and a share"),
        (["--fail-under", "0.7=0.3"], "a radius that is not decided"),
        (["--sigma", "0.25", "--sigma", "0.5", "--fail-under", "0.25=0.3"], "--fail-under 0.25@0.25=0.3"),
        (["--sigma", "0.12", "--radius", "0.5"], "cannot certify the radius 0.5"),
        (["--shard", "1/2"], "--shard needs --out"),
        (["--report-only", "nowhere"], "nowhere"),
    ):
        run = invoke(*base, *arguments)
        assert run.returncode == 2, arguments
        assert text in run.stderr, run.stderr
        assert "Traceback" not in run.stderr


def test_images_without_labels_are_refused(invoke: Run, images: Path) -> None:
    run = invoke("certify", "--dataset", images, *LINEAR)
    assert run.returncode == 2
    assert "certified accuracy needs them" in run.stderr


def test_a_dry_run_does_nothing(invoke: Run, data: Path, tmp_path: Path) -> None:
    run = invoke("certify", "--dataset", data, *LINEAR, "--out", "out", "--dry-run", "--json")
    document = json.loads(run.stdout)
    validate(document, "cmap.certify/1")
    assert document["seconds"][0] < document["seconds"][1]
    assert not (tmp_path / "out").exists()
    text = invoke("certify", "--dataset", data, *LINEAR, "--out", "out", "--dry-run")
    assert "samples/s" in text.stderr


def test_the_table_has_the_columns_of_cohen_and_is_read_back(invoke: Run, data: Path, tmp_path: Path) -> None:
    run = invoke(
        "certify", "--dataset", data, "--n", "10", *LINEAR, "--sigma", "0.5", "--radius", "0.1", "--out", "out"
    )
    assert run.returncode == 0, run.stderr
    path = tmp_path / "out" / "sigma-0.5.tsv"
    assert path.read_text().splitlines()[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    with path.open() as file:  # as his analyze.py does it: correct, and the radius covers
        rows = list(csv.DictReader(file, delimiter="\t"))
    share = sum(int(row["correct"]) and float(row["radius"]) >= 0.1 for row in rows) / len(rows)
    assert share == report(tmp_path / "out")["results"][0]["radii"][0]["certified"]["value"]
    assert [row.holds_at(0.1) for row in read_tsv(path)] == [
        bool(int(row["correct"])) and float(row["radius"]) >= 0.1 for row in rows
    ]
    (tmp_path / "theirs.tsv").write_text(
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.6\t1\t0:00:07\n20\t8\t-1\t0.0\t0\t0:00:07\n"
    )
    assert [row.predicted for row in read_tsv(tmp_path / "theirs.tsv")] == [3, -1]
    for text in ("", "idx\tlabel\n1\t2\n", "idx\tlabel\tpredict\tradius\tcorrect\n0\t1\tx\t0\t1\n"):
        (tmp_path / "bad.tsv").write_text(text)
        with pytest.raises(UsageError):
            read_tsv(tmp_path / "bad.tsv")


def test_a_model_denoises_and_python_gives_what_the_command_gives(
    invoke: Run, small_model: Path, data: Path, tmp_path: Path
) -> None:
    options = ("--model", small_model, "--classifier", "tests.toys:brightness_classifier", "--precision", "fp32")
    run = invoke("certify", "--dataset", data, "--n", "4", *options, "--sigma", "0.5", "--radius", "0.1", "--out", "a")
    assert run.returncode == 0, run.stderr
    result = cmap_cli.certify(
        str(data), out=tmp_path / "b", n=4, sigma=0.5, radius=0.1, model=str(small_model), precision="fp32",
        classifier="tests.toys:brightness_classifier", device="cpu",
    )  # fmt: skip
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert result.report is not None
    assert result.report.settings["denoiser"] == "consistency"


def test_a_benchmark_of_the_smoothed_classifier_checks_its_certificates(
    invoke: Run, small_model: Path, tmp_path: Path
) -> None:
    x = np.stack([np.full((SIDE, SIDE, 3), 0.5 + offset, dtype=np.float32) for offset in (-0.05, -0.03, 0.03, 0.05)])
    np.savez(tmp_path / "four.npz", x=x, y=np.array([0, 0, 1, 1]))
    run = invoke(
        "benchmark", "--dataset", "four.npz", "--n", "4", "--model", small_model, "--defense", "smoothed", "--sigma",
        "0.5", "--samples", "40", "--classifier", "tests.toys:brightness_classifier", "--attack", "pgd@white-box",
        "--attack", "square@black-box", "--queries", "5", "--attack-steps", "4", "--norm", "L2", "--eps", "0.1",
        "--reevaluations", "4", "--out", "out", "--fail-under", "0.1",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    flag = next(one for one in report(tmp_path / "out")["flags"] if one["name"] == "certificates")
    assert not flag["fired"]
    assert "none is violated" in flag["what"]
    assert "correct and certified in L2 0.1" in flag["what"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert all(sum(votes.values()) == 40 for line in lines for votes in line["votes"])
    for line in lines:  # what a wrong certificate would look like
        if line["attack"] == "pgd" and line["l2"] < 0.2:
            line["votes"] = [{str(1 - line["label"]): 40}] * 4
    (tmp_path / "out" / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert invoke("benchmark", "--report-only", "out").returncode == 0
    run = invoke("benchmark", "--report-only", "out", "--fail-under", "0")
    assert run.returncode == 1
    assert "check certificates" in run.stderr
    assert "is certified for" in run.stderr


def test_damaged_folders_are_one_error(invoke: Run, data: Path, tmp_path: Path) -> None:
    command = ["certify", "--dataset", data, "--n", "2", *LINEAR, "--sigma", "0.5", "--radius", "0.1", "--out", "out"]
    assert invoke(*command).returncode == 0
    settings = tmp_path / "out" / "certify.json"
    whole = settings.read_text()
    for change in ('"sigma": [', '"radius": [', '"alpha": '):
        settings.write_text(whole.replace(change, f'"x{change[1:]}'))
        for arguments in (["certify", "--report-only", "out"], ["merge", "out"]):
            run = invoke(*arguments)
            assert run.returncode == 2, change
            assert "is damaged or of another program" in run.stderr
            assert "Traceback" not in run.stderr
    settings.write_text(whole)
    lines = (tmp_path / "out" / "records.jsonl").read_text()
    (tmp_path / "out" / "records.jsonl").write_text(lines.replace('"radius"', '"x"', 1))
    run = invoke("certify", "--report-only", "out")
    assert run.returncode == 2
    assert "line 1 of" in run.stderr


def test_a_classifier_that_was_adapted_is_certified_and_named_in_every_report(invoke: Run, tmp_path: Path) -> None:
    write_base(tmp_path / "base", 32)
    y = np.arange(24) % 2
    x = (np.random.RandomState(0).randint(0, 90, (24, 32, 32, 3)) + 160 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    training = [
        "train", "data.npz", "--kind", "classifier", "--classifier", "base", "--model", "cifar10-gaussian",
        "--images-seen", "64", "--batch-size", "16", "--sigma", "0.2", "--out", "adapted",
    ]  # fmt: skip
    plan = invoke(*training, "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    document = json.loads(plan.stdout)
    validate(document, "cmap.train/1")
    assert (document["kind"], document["images"], document["iterations"]) == ("classifier", 24, 4)
    assert not (tmp_path / "adapted").exists()
    made = invoke(*training)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "adapted/classifier.safetensors"
    common = ["--dataset", "data.npz", "--classifier", "adapted", "--n", "2"]
    certify = [
        "certify",
        *common,
        "--model",
        "cifar10-gaussian",
        "--sigma",
        "0.2",
        "--radius",
        "0.1",
        "--samples",
        "60",
    ]
    run = invoke(*certify, "--split", "test", "--out", "certificates")
    assert run.returncode == 0, run.stderr
    label = "classifier adapted on denoised training images"
    for name in ("report.json", "report.md", "report.html", "certify.json"):
        assert label in (tmp_path / "certificates" / name).read_text(), name
    assert (
        "further trained on 64 noisy images of the split train of data.npz"
        in report(tmp_path / "certificates")["limits"][0]
    )
    refused = invoke(*certify, "--split", "train", "--out", "cheating")
    assert (refused.returncode, "are the images that" in refused.stderr) == (2, True)
    attacked = invoke(
        "benchmark", *common, "--split", "test", "--defense", "none", "--attack", "pgd", "--attack-steps", "1",
        "--out", "attacked",
    )  # fmt: skip
    assert attacked.returncode == 0, attacked.stderr
    for name in ("report.json", "report.md", "report.html", "benchmark.json"):
        assert label in (tmp_path / "attacked" / name).read_text(), name


def test_a_budget_chooses_images_and_samples_and_keeps_them(
    invoke: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["certify", "--dataset", data, *LINEAR, "--sigma", "0.5", "--radius", "0.1", "--out", "out"]
    plan = invoke(*command, "--budget", "60s", "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    document = json.loads(plan.stdout)
    validate(document, "cmap.certify/1")
    assert document["chosen"] == {"n": 10, "samples": 1000}  # all there are, on a classifier that takes no time
    assert not (tmp_path / "out").exists()
    shown = invoke(*command, "--budget", "60s", "--dry-run")
    assert ": 10 images and 1,000 samples; all samples together take" in shown.stderr
    assert "points wide if no image is certified" in shown.stderr
    clock = iter([0.0, 0.0])  # and then the time is over
    watch = SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: next(clock, math.inf))
    monkeypatch.setattr("cmap_cli.benchmarking.certificates.work.time", watch)
    cut = invoke(*command, "--budget", "60s", "--fail-under", "0.1=0")
    assert cut.returncode == 1
    assert "the time of --budget 60s was over with" in cut.stderr
    assert "so it cannot pass" in cut.stderr
    assert not report(tmp_path / "out")["complete"]
    monkeypatch.undo()
    other = invoke(*command, "--budget", "70s")
    assert (other.returncode, "was planned for 60 s, not for 70 s" in other.stderr) == (2, True)
    monkeypatch.setattr("cmap_cli.benchmarking.certificates.run.measure_speed", lambda run: 1.0)  # slower than before
    done = invoke(*command, "--budget", "60s", "--fail-under", "0.1=0")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/certify.json").read_text())["settings"]["n"] == 10
    short = invoke(*command, "--budget", "20s", "--overwrite")
    assert (short.returncode, "--budget of 20 s is too short" in short.stderr) == (2, True)
    shard = invoke(*command, "--budget", "20s", "--shard", "1/2")
    assert (shard.returncode, "--budget plans for one process" in shard.stderr) == (2, True)


def test_certificates_of_another_program_are_shown_beside(invoke: Run, data: Path, tmp_path: Path) -> None:
    (tmp_path / "cohen.tsv").write_text(
        "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.378\t1\t15.4\n20\t7\t-1\t0.0\t0\t15.6\n"
        "40\t4\t4\t0.05\t1\t0:00:13.7\n60\t7\t2\t0.5\t0\t0:00:13.7\n"
    )
    command = ["certify", "--dataset", data, "--n", "4", *LINEAR, "--sigma", "0.5", "--radius", "0.1", "--out", "out"]
    run = invoke(*command, "--reference", "Cohen=cohen.tsv")
    assert run.returncode == 0, run.stderr
    document = report(tmp_path / "out")
    validate(document, "cmap.certificate-report/1")
    (other,) = document["others"]
    assert (other["name"], other["images"], other["shares"]) == ("Cohen", 4, [0.25])
    assert other["curve"] == [[0.0, 0.5], [0.05, 0.25], [0.378, 0.0]]
    html = (tmp_path / "out/report.html").read_text()
    assert html.count("<polyline") == 2
    assert "| Cohen | 4 | 25.0 % |" in (tmp_path / "out/report.md").read_text()
    again = invoke("certify", "--report-only", "out", "--reference", "cohen.tsv", "--quiet")
    assert again.returncode == 0, again.stderr
    assert report(tmp_path / "out")["others"][0]["name"] == "cohen"
    own = invoke("certify", "--report-only", "out", "--reference", "ours=out/sigma-0.5.tsv", "--quiet")
    assert own.returncode == 0, own.stderr
    found = report(tmp_path / "out")
    assert found["others"][0]["shares"][0] == found["results"][0]["radii"][0]["certified"]["value"]
    wrong = invoke("certify", "--report-only", "out", "--reference", "out/records.jsonl")
    assert (wrong.returncode, "has no column idx" in wrong.stderr) == (2, True)


def test_the_example_for_ci_is_planned_as_it_stands(invoke: Run, tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/certify.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("- run: cmap certify")]
    arguments = shlex.split(line.removeprefix("- run: cmap "))
    assert "--fail-under" in arguments
    plan = invoke(*arguments, "--dry-run", "--json")
    assert plan.returncode == 0, plan.stderr
    document = json.loads(plan.stdout)
    assert (document["settings"]["model"], document["settings"]["n"]) == ("cifar10-unet", 20)
    assert not (tmp_path / "certificates").exists()
