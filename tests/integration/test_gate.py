"""The conditions of a CI job, from the command line, on folders of runs that were never made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cmap_cli.benchmarking.checks import write_checked_report
from tests.conftest import Run
from tests.fake_benchmark import TRANSFER_ATTACKS, write_benchmark

REPORT = ("benchmark", "--report-only")
FIGURE = r"0\.\d{3}, below 0\.9 \(\d+ of 40 images, 95 % interval 0\.\d{3} to 0\.\d{3}\)"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A complete run of 40 images with attacks through the defence at 4/255 and 8/255."""
    write_checked_report(write_benchmark(tmp_path / "base", n=40, pictures=False))
    return tmp_path / "base"


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    """The same run, in which the white-box attack breaks every image."""
    folder = write_benchmark(tmp_path / "worse", n=40, pictures=False)
    change_records(folder, lambda record: record["access"] == "white-box" and not record["control"])
    write_checked_report(folder)
    return folder


def change_records(folder: Path, broken: Callable[[dict[str, Any]], bool]) -> None:
    """Let the defence misclassify some images."""
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in filter(broken, records):
        record["draws"] = [(record["label"] + 1) % 10] * len(record["draws"])
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_thresholds_judge_an_access_a_radius_and_a_class(invoke: Run, base: Path) -> None:
    loose = ("--fail-under", "white-box@4/255=0.2", "--fail-under", "8/255@class:cat=0", "--fail-under", "0.01")
    assert invoke(*REPORT, base, *loose, "--quiet").returncode == 0
    run = invoke(*REPORT, base, *loose, "--fail-under", "white-box@8/255=0.9", "--fail-under", "0.9", "--quiet")
    assert run.returncode == 1
    first, second = run.stderr.splitlines()
    assert re.fullmatch(rf"error: robust accuracy under white-box@8/255 is {FIGURE}\.", first)
    assert re.fullmatch(rf"error: robust accuracy is {FIGURE}\.", second)
    missing = invoke(*REPORT, base, "--fail-under", "adaptive=0", "--quiet")
    assert (missing.returncode, "there is no robust accuracy under adaptive" in missing.stderr) == (1, True)


def test_a_run_past_the_defence_passes_only_where_that_is_accepted(invoke: Run, tmp_path: Path) -> None:
    write_checked_report(write_benchmark(tmp_path / "past", n=40, attacks=TRANSFER_ATTACKS, pictures=False))
    run = invoke(*REPORT, "past", "--fail-under", "0.01", "--quiet")
    assert (run.returncode, "no attack of this run went through the defence" in run.stderr) == (1, True)
    assert invoke(*REPORT, "past", "--fail-under", "0.01", "--accept-access", "transfer", "-q").returncode == 0
    run = invoke(*REPORT, "past", "--require-access", "white-box", "--quiet")
    assert (run.returncode, "no white-box attack was made" in run.stderr) == (1, True)


def test_a_comparison_is_a_table_a_document_and_a_picture(invoke: Run, base: Path, worse: Path, tmp_path: Path) -> None:
    run = invoke("compare", base, worse, "--picture", "compare.svg")
    assert run.returncode == 0, run.stderr
    assert "| condition | base | new | lost | gained | difference | p |" in run.stdout
    assert re.search(r"\| pgd@white-box, Linf 4/255, cmap \| .* worse \|", run.stdout)
    assert "significantly worse" in run.stdout.splitlines()[-1]
    assert "<svg" in (tmp_path / "compare.svg").read_text()
    gate = invoke("compare", base, worse, "--fail-on-regression", "--json")
    document = json.loads(gate.stdout)
    assert (gate.returncode, document["exit_code"]) == (1, 1)
    assert any(
        reason.startswith("pgd@white-box, Linf 4/255, cmap: 0 of 40 instead of") for reason in document["failures"]
    )
    rows = {
        (row["condition"]["attack"], row["condition"]["eps"], row["condition"]["defense"]) for row in document["rows"]
    }
    assert {("pgd", "4/255", "cmap"), ("worst case", "8/255", "cmap"), ("clean", None, "cmap")} <= rows
    assert invoke("compare", base, base, "--fail-on-regression", "--quiet").returncode == 0
    assert invoke("compare", base, worse, "--fail-on-regression", "--alpha", "1e-30", "--quiet").returncode == 0


def test_a_comparison_with_a_run_that_is_not_complete_fails(invoke: Run, base: Path, worse: Path) -> None:
    lines = (worse / "records.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if (json.loads(line)["attack"], json.loads(line)["image"]) != ("autoattack", 39)]
    (worse / "records.jsonl").write_text("".join(kept))
    run = invoke("compare", base, worse, "--fail-on-regression", "--quiet")
    assert (run.returncode, "is not complete" in run.stderr) == (1, True)


def test_a_baseline_fails_a_regression_and_junit_says_why(invoke: Run, base: Path, worse: Path, tmp_path: Path) -> None:
    gate = ("--baseline", base / "report.json", "--fail-on-regression", "--fail-under", "0.9", "--junit", "junit.xml")
    run = invoke(*REPORT, worse, *gate, "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (1, 1)
    assert document["comparison"]["schema"] == "cmap.compare/1"
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    conditions = root.find("testsuite[@name='cmap.conditions']")
    assert conditions is not None
    failures = [each.text or "" for each in conditions.iter("failure")]
    assert list(document["missed"]) == failures
    (worst,) = root.iterfind(".//testcase[@name='worst case, Linf 8/255']/failure")
    assert worst.text in failures
    assert any(
        re.fullmatch(r"robust accuracy is 0\.000, below 0\.9 \(0 of 40 images, 95 % .*\)", each) for each in failures
    )
    assert any("instead of" in each for each in failures)
    names = {case.get("name") for case in root.iter("testcase")}
    assert {"pgd@white-box, Linf 4/255", "worst case, Linf 8/255", "clean"} <= names
    assert invoke(*REPORT, base, "--baseline", worse, "--fail-on-regression", "--quiet").returncode == 0


def test_baselines_and_files_that_cannot_be_used_are_reported_before_the_run(
    invoke: Run, base: Path, tmp_path: Path
) -> None:
    run = invoke("benchmark", "--n", "5", "--baseline", base, "--junit", tmp_path, "--fail-on-regression", "--json")
    problems = [each["error"] for each in json.loads(run.stdout)["errors"]]
    assert run.returncode == 2
    assert problems == [f"--junit {tmp_path} is a folder", f"--baseline {base} was measured with --n 40, not 5"]
    run = invoke("benchmark", "--budget", "10m", "--baseline", base)
    assert (run.returncode, "hint: --n 40" in run.stderr) == (2, True)
    run = invoke("benchmark", "--fail-on-regression")
    assert (run.returncode, "needs a run to compare with" in run.stderr) == (2, True)


def test_github_gets_a_summary_errors_and_warnings(invoke: Run, base: Path, tmp_path: Path) -> None:
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    run = invoke(*REPORT, base, "--fail-under", "0.9", **github)
    assert run.returncode == 1
    assert "::error title=cmap::robust accuracy is 0." in run.stderr
    assert "::warning title=cmap::" in run.stderr
    assert "::" not in run.stdout
    assert "| clean | attacked |" in (tmp_path / "summary.md").read_text()


def test_a_report_has_a_badge_and_a_block_for_a_model_card(base: Path) -> None:
    badge = json.loads((base / "badge.json").read_text())
    assert badge["label"] == "robust accuracy"
    assert badge["message"].endswith("at Linf 8/255, n = 40")
    assert "model-index:" in (base / "model-card.md").read_text()
