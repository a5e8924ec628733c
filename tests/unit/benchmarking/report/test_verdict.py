"""The verdict follows from the intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmap_cli.benchmarking.report import build_report
from tests.conftest import Run
from tests.unit.benchmarking.report.test_report import attacked, clean, write_run

N = 100


def verdict(folder: Path, counts: dict[str, int], *, n: int = N, bare: int = 0, right: int = N) -> tuple[str, ...]:
    """The verdict on attacks ("pgd@bpda") that leave so many images right; transfer leaves ``bare`` without defence."""
    records = [clean(image, [1 if image < right else 2], undefended=1) for image in range(n)]
    for attack, left in counts.items():
        undefended = bare if attack.endswith("@transfer") else 0
        records += [
            attacked(image, attack, [1 if image < left else 2], undefended=1 if image < undefended else 2)
            for image in range(n)
        ]
    return build_report(write_run(folder, records, n=n)).verdict


def test_an_attack_through_the_defence_that_leaves_nothing(tmp_path: Path) -> None:
    first, second = verdict(tmp_path, {"pgd@transfer": 70, "pgd@white-box": 3}, bare=2)
    assert first == (
        "cmap adds nothing measurable against an attacker who knows the defence: 3.0 % with it, 2.0 % without, and "
        "the 95 % intervals overlap."
    )
    assert second == (
        "Against an attacker who does not know the defence, cmap raised accuracy from 2.0 % to 70.0 % in this run."
    )


def test_the_worst_attack_of_each_kind_decides(tmp_path: Path) -> None:
    counts = {"fgsm@transfer": 70, "pgd@transfer": 60, "pgd@surrogate": 40, "pgd@bpda": 30, "pgd@white-box": 20}
    informed, uninformed, stand_in = verdict(tmp_path, counts)
    assert "who knows the defence, cmap raised accuracy from 0.0 % to 20.0 %" in informed
    assert "who does not know the defence, cmap raised accuracy from 0.0 % to 60.0 %" in uninformed
    assert "with a one-step substitute for the defence, cmap raised accuracy from 0.0 % to 40.0 %" in stand_in


def test_few_images_tell_nothing(tmp_path: Path) -> None:
    first, *_ = verdict(tmp_path, {"pgd@transfer": 4, "pgd@white-box": 2}, n=5, bare=1)
    assert first.startswith("5 images are too few to tell whether cmap adds anything against an attacker who knows")


def test_a_defence_can_be_harmful(tmp_path: Path) -> None:
    first, _, clean_too = verdict(tmp_path, {"pgd@transfer": 70, "pgd@white-box": 1}, bare=60, right=80)
    assert first == "Against an attacker who knows the defence, cmap lowers accuracy from 60.0 % to 1.0 %."
    assert clean_too == "On clean images cmap lowers accuracy from 100.0 % to 80.0 %."


def test_without_an_attack_the_verdict_says_that_nothing_is_known(tmp_path: Path) -> None:
    first, _ = verdict(tmp_path, {"pgd@transfer": 70})
    assert first == "Nothing is known about an attacker who knows the defence: no attack of this run went through cmap."
    (only,) = verdict(tmp_path, {})
    assert only == "No attack was evaluated: nothing is known about robustness."


def test_without_attacks_on_the_bare_classifier_nothing_is_compared(tmp_path: Path) -> None:
    (first,) = verdict(tmp_path, {"pgd@bpda": 50})
    assert "50 of 100 images (50.0 %) stay correct; the bare classifier was not attacked" in first


def test_the_verdict_without_a_defence(tmp_path: Path) -> None:
    records = [clean(0, [1], "none"), attacked(0, "pgd@transfer", [1], "none")]
    (only,) = build_report(write_run(tmp_path, records, n=1)).verdict
    assert only == "Without a defence, 1 of 1 images (100.0 %) stay correct under attack."


@pytest.mark.parametrize(
    ("bare", "left", "warned", "by_chance"), [(60, 30, True, False), (33, 30, True, True), (30, 30, False, False)]
)
def test_a_defence_that_lowers_the_worst_case_of_the_classifier_is_warned_of(
    invoke: Run, tmp_path: Path, bare: int, left: int, warned: bool, by_chance: bool
) -> None:
    verdict(tmp_path / "o", {"pgd@transfer": 80, "pgd@white-box": left}, bare=bare)
    sentence = f"cmap lowers the worst case within Linf 8/255: {bare}.0 %"
    report = build_report(tmp_path / "o")
    found = [each for each in report.warnings if each.startswith(sentence)]
    assert len(found) == warned
    assert any(each.endswith("chance may explain it.") for each in found) == by_chance
    told = invoke("benchmark", "--report-only", "o")
    assert told.returncode == 0
    assert (f"warning: {sentence}" in " ".join(told.stderr.split())) == warned
