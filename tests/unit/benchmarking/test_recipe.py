"""The recipe of docs/architecture.md for a new attack: one file with a builder, and one row of the table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmap_cli.attacks.table import ATTACKS, AttackEntry, Budget, PlannedPasses
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.benchmarking.run import attack, benchmark
from cmap_cli.benchmarking.weakness import weak_points
from cmap_cli.choices import Access
from cmap_cli.defenses.deployed import Defenses


# the file of the attack
@dataclass(frozen=True)
class Darken:
    """Subtract eps from every pixel."""

    threat: ThreatModel
    access: Access
    name: str = "darken"

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once, see :class:`~cmap_cli.attacks.types.Attack`."""
        x_adv = self.threat.project(x - self.threat.eps, x)
        with torch.no_grad():
            return AttackResult(x_adv, model(x_adv).argmax(1) != y)


def build_darken(threat: ThreatModel, access: Access, budget: Budget, defenses: Defenses) -> Darken:
    """A row of ATTACKS."""
    return Darken(threat, access)


# the row of the table
ROW = AttackEntry(
    "tests.unit.benchmarking.test_recipe:build_darken", ("black-box", "transfer"), lambda *_: PlannedPasses(1)
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two images, and the new row."""
    monkeypatch.setitem(ATTACKS, "darken", ROW)
    x = np.random.default_rng(0).uniform(0.3, 0.6, (2, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=[0, 1])
    return str(tmp_path / "data.npz")


def test_a_new_attack_appears_in_the_report(data: str, small_model: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    plans = []
    result = benchmark(
        data,
        out=tmp_path / "o",
        attack="darken",
        model=str(small_model),
        classifier="tests.toys:quadrant_classifier",
        steps=1,
        num_latents=1,
        device="cpu",
        on_plan=plans.append,
        on_progress=lambda event: progress.append((event.done, event.total)),
    )
    assert result.report is not None and result.report.headline is not None
    assert result.report.headline.attacks == ("darken@black-box",)
    assert result.report.headline.through_defense
    assert "darken@black-box" in (tmp_path / "o" / "report.md").read_text()
    assert json.loads((tmp_path / "o" / "benchmark.json").read_text())["settings"]["attacks"] == ["darken@black-box"]
    assert progress == sorted(progress)
    assert (progress[0][0], progress[-1][0]) == (0, progress[-1][1])
    assert 0 < plans[0].cost.remaining.low < plans[0].cost.remaining.high
    assert result.report.weak == weak_points(result.report)


def test_a_new_attack_makes_images(data: str, small_model: Path, tmp_path: Path) -> None:
    result = attack(
        data,
        tmp_path / "a",
        attack="darken@transfer",
        model=str(small_model),
        classifier="tests.toys:quadrant_classifier",
        steps=1,
        num_latents=1,
        device="cpu",
    )
    assert result.successes is not None and result.successes.images == 2
    assert all((tmp_path / "a" / name).is_file() for name in result.images)
