"""A cascade of attacks: the same worst cases as without one, from fewer attacks."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmap_cli.attacks.table import ATTACKS, AttackEntry, Budget, PlannedPasses
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.benchmarking import loop
from cmap_cli.benchmarking.compare import compare
from cmap_cli.benchmarking.report.build import build_report
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.run import benchmark
from cmap_cli.choices import Access
from cmap_cli.defenses.deployed import Defenses
from tests.conftest import Run

N = 8
BROKEN_BY = {"weak": (0, 1, 2), "strong": (1, 2, 3, 4)}
"""Numbers of the images that each attack moves across the classifier's border; image 7 is wrong as it is."""


@dataclasses.dataclass(frozen=True)
class Moves:
    """Makes some images dark, which are told apart by their first pixel."""

    threat: ThreatModel
    access: Access
    name: str

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        numbers = (x[:, 0, 0, 0] * 255).round().int()
        chosen = torch.tensor([int(number) in BROKEN_BY[self.name] for number in numbers])
        x_adv = torch.where(chosen[:, None, None, None], self.threat.project(x - 1, x), x)
        with torch.no_grad():
            return AttackResult(x_adv, model(x_adv).argmax(1) != y)


def build(threat: ThreatModel, access: Access, budget: Budget, defenses: Defenses, name: str) -> Moves:
    return Moves(threat, access, name)


@pytest.fixture(autouse=True)
def attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, passes in (("weak", 1), ("strong", 5)):
        plan = PlannedPasses(passes)
        accesses: tuple[Access, ...] = ("black-box", "transfer")
        entry = AttackEntry(f"{__name__}:build", accesses, lambda *_, plan=plan: plan, arguments=(name,))
        monkeypatch.setitem(ATTACKS, name, entry)


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Images of brightness 0.55, of class 1; the last one claims to be of class 0."""
    x = np.full((N, 8, 8, 3), 0.55, np.float32)
    x[:, 0, 0, 0] = np.arange(N) / 255
    np.savez(tmp_path / "data.npz", x=x, y=[1] * (N - 1) + [0])
    return str(tmp_path / "data.npz")


def run(data: str, out: Path, attack: Sequence[str], **options: Any) -> Report:
    """A benchmark of a defence that is told by its classifier."""
    settings: dict[str, Any] = {"defense": ("jpeg", "none"), "eps": ("0.02", "0.1"), "reevaluations": 2} | options
    found = benchmark(
        data, out=out, attack=attack, classifier="tests.toys:brightness_classifier", n=N, device="cpu", **settings
    )
    assert found.report is not None
    return found.report


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def skips(folder: Path) -> set[tuple[str, str, int, str]]:
    return {(r["item"], r["defense"], r["image"], r["broken_by"]) for r in records(folder) if r.get("broken_by")}


def worst_cases(report: Report) -> list[Any]:
    """All that is computed over several attacks."""
    return [
        (one.defense, threat.eps, threat.n, threat.worst_case, threat.undefended, threat.by_access, threat.informed,
         threat.uninformed, threat.resubmissions, threat.classes)
        for one in report.defenses
        for threat in one.threats
    ]  # fmt: skip


BOTH = ("strong@black-box", "weak@black-box", "strong@transfer", "weak@transfer")


def test_worst_cases_are_those_without_a_cascade(data: str, tmp_path: Path) -> None:
    with_cascade, without = run(data, tmp_path / "c", BOTH), run(data, tmp_path / "n", BOTH, cascade=False)
    assert with_cascade.complete and without.complete
    assert worst_cases(with_cascade) == worst_cases(without)
    assert not skips(tmp_path / "n")
    # the cheaper attack is run first; at the small eps nothing is broken but the image that is wrong as it is
    expected = {
        ("strong-black-box-Linf-0.1-jpeg", "jpeg", image, "weak-black-box-Linf-0.1-jpeg") for image in (0, 1, 2, 7)
    }
    expected |= {("strong-black-box-Linf-0.02-jpeg", "jpeg", 7, "weak-black-box-Linf-0.02-jpeg")}
    found = skips(tmp_path / "c")
    assert {each for each in found if "black-box" in each[0]} == expected
    # an attack on the bare classifier is left out only where both defences and the classifier are wrong
    assert {each[1:3] for each in found if each[0] == "strong-transfer-Linf-0.1"} == {
        (defense, image) for defense in ("jpeg", "none") for image in (0, 1, 2, 7)
    }


def test_the_report_says_which_attack_left_out_what(data: str, tmp_path: Path) -> None:
    report = run(data, tmp_path / "c", BOTH, eps="0.1")
    settings = json.loads((tmp_path / "c" / "benchmark.json").read_text())["settings"]
    assert settings["cascade"] is True
    assert settings["attacks"] == ["weak@black-box", "strong@black-box", "weak@transfer", "strong@transfer"]
    rows = {(row.attack, row.access): row for row in report.defenses[0].threats[0].attacks}
    weak, strong = rows["weak", "black-box"], rows["strong", "black-box"]
    assert not weak.skipped and weak.run_on == N
    assert strong.skipped == (0, 1, 2, 7)
    assert strong.defended is not None and (strong.defended.vote.right, strong.run_on) == (2, 4)
    text = (tmp_path / "c" / "report.md").read_text()
    assert "| strong@black-box | 2 of the 4 left |" in text
    assert "Order: black-box: weak, strong" in text


def test_one_attack_with_each_access_is_no_cascade(data: str, tmp_path: Path) -> None:
    run(data, tmp_path / "o", ("strong@black-box", "weak@transfer"))
    assert "cascade" not in json.loads((tmp_path / "o" / "benchmark.json").read_text())["settings"]
    assert not skips(tmp_path / "o")


def test_chunks_and_a_run_that_goes_on_leave_out_the_same_images(data: str, tmp_path: Path) -> None:
    run(data, tmp_path / "one", BOTH, chunk=1)
    run(data, tmp_path / "three", BOTH, chunk=3)
    assert sorted(map(str, records(tmp_path / "three"))) == sorted(map(str, records(tmp_path / "one")))
    lines = (tmp_path / "one" / "records.jsonl").read_text().splitlines(keepends=True)
    for kept in (9, len(lines) // 2, len(lines) - 2):
        (tmp_path / "one" / "records.jsonl").write_text("".join(lines[:kept]) + lines[kept][:20])
        run(data, tmp_path / "one", BOTH, chunk=4)
        assert sorted(map(str, records(tmp_path / "one"))) == sorted(map(str, records(tmp_path / "three")))


def test_shards_leave_out_the_same_images(invoke: Run, data: str, tmp_path: Path) -> None:
    arguments = ["--dataset", data, "--classifier", "tests.toys:brightness_classifier", "--defense", "jpeg"]
    arguments += ["--n", str(N), "--eps", "0.1", "--attack", "strong@black-box", "--attack", "weak@black-box"]
    arguments += ["--device", "cpu"]
    assert invoke("benchmark", *arguments, "--out", "whole").returncode == 0
    for shard in ("3/3", "1/3", "2/3"):
        assert invoke("benchmark", *arguments, "--out", "parts", "--shard", shard).returncode == 0
    assert invoke("merge", "parts").returncode == 0
    assert skips(tmp_path / "parts") == skips(tmp_path / "whole") != set()
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    again = invoke("benchmark", *arguments, "--out", "whole", "--no-cascade")
    assert again.returncode == 2
    assert "cascade was True and is now False" in again.stderr


def test_a_threshold_judges_the_worst_case(invoke: Run, data: str, tmp_path: Path) -> None:
    run(data, tmp_path / "o", ("strong@black-box", "weak@black-box"), defense="jpeg", eps="0.1")
    passed = invoke("benchmark", "--report-only", "o", "--fail-under", "black-box=0.25")
    assert passed.returncode == 0, passed.stderr
    missed = invoke("benchmark", "--report-only", "o", "--fail-under", "black-box=0.26")
    assert missed.returncode == 1
    assert "0.250" in missed.stderr


def test_an_attack_that_left_out_images_is_not_compared(data: str, tmp_path: Path) -> None:
    attack = ("strong@black-box", "weak@black-box")
    run(data, tmp_path / "c", attack, defense="jpeg", eps="0.1")
    run(data, tmp_path / "n", attack, defense="jpeg", eps="0.1", cascade=False)
    found = compare(tmp_path / "n", tmp_path / "c")
    assert {(row.condition.attack, row.new - row.base) for row in found.rows} == {
        ("clean", 0),
        ("weak", 0),
        ("worst case", 0),
    }
    (problem,) = found.problems
    assert "strong@black-box" in problem and "not run on 4 images (--no-cascade" in problem


def test_a_skipped_image_without_the_attack_that_broke_it_does_not_count(data: str, tmp_path: Path) -> None:
    attack = ("strong@black-box", "weak@black-box")
    whole = run(data, tmp_path / "o", attack, defense="jpeg", eps="0.1")
    assert whole.complete and whole.headline is not None and whole.headline.n == N
    path = tmp_path / "o" / "records.jsonl"
    changed = []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        if record["attack"] == "weak" and record["image"] == 1:
            record["draws"] = [record["label"]]  # as if it had not broken the image
        changed.append(json.dumps(record) + "\n")
    path.write_text("".join(changed))
    assert build_report(tmp_path / "o").defenses[0].threats[0].n == N - 1


def test_skipped_images_take_no_attack(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    real = loop.do_tasks

    def counting(campaign: Any, folder: Any, group: Any, watch: Any) -> Any:
        counted.extend(task.item.name for task in group)
        return real(campaign, folder, group, watch)

    monkeypatch.setattr(loop, "do_tasks", counting)
    run(data, tmp_path / "o", ("strong@black-box", "weak@black-box"), defense="jpeg", eps="0.1")
    assert counted.count("weak-black-box-Linf-0.1-jpeg") == N
    assert counted.count("strong-black-box-Linf-0.1-jpeg") == 4
