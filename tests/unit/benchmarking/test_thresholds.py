"""The gate fails closed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cmap_cli.benchmarking.checks import write_checked_report
from cmap_cli.benchmarking.report import build_report
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.thresholds import Gate, Threshold, failed_conditions, parse_gate, parse_threshold
from cmap_cli.benchmarking.weakness import weak_points
from cmap_cli.errors import UsageError
from tests.fake_benchmark import write_benchmark


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A complete run with attacks through the defence at 4/255 and 8/255."""
    return build_report(write_benchmark(tmp_path_factory.mktemp("run"), n=40, pictures=False))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A complete run whose attacks do not go through the defence."""
    attacks = ("autoattack@transfer", "pgd@surrogate")
    return build_report(write_benchmark(tmp_path_factory.mktemp("past"), n=40, attacks=attacks, pictures=False))


def gate(*fail_under: str, **options: object) -> Gate:
    return replace(Gate(tuple(map(parse_threshold, fail_under))), **options)  # type: ignore[arg-type]


def test_thresholds_are_parsed() -> None:
    assert parse_threshold("0.5") == Threshold(0.5, spelled="0.5")
    found = parse_threshold("white-box@4/255=0.2")
    assert (found.access, found.eps, found.value) == ("white-box", 4 / 255, 0.2)
    assert parse_threshold("8/255@class:cat=0.1").label == "cat"
    for text in ("", "1.1", "-0.1", "nan", "white-box", "withe-box=0.1", "4/0=0.1", "white-box@class:cat=0.1"):
        with pytest.raises(UsageError, match="--fail-under"):
            parse_threshold(text)


def test_all_wrong_conditions_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(
            ["x"], None, "estimate", fail_on_flags=False, fail_on_weak=False, require_access=["y"], accept_access=["z"]
        )
    assert len(caught.value.problems) == 3


def test_a_complete_run_through_the_defence_passes_and_fails_by_its_number(report: Report) -> None:
    assert report.complete
    assert failed_conditions(report, Gate()) == []
    assert failed_conditions(report, gate("0")) == []
    (sentence,) = failed_conditions(report, gate("1"))
    assert re.fullmatch(
        r"robust accuracy is 0\.\d{3}, below 1 \(\d+ of 40 images, 95 % interval 0\.\d{3} to 0\.\d{3}\)", sentence
    )
    assert "lower end" in failed_conditions(report, gate("1", fail_on="interval"))[0]


def test_thresholds_for_an_access_a_ball_and_a_class(report: Report) -> None:
    assert failed_conditions(report, gate("white-box=0", "white-box@4/255=0", "transfer@8/255=0", "class:cat=0")) == []
    (loose,), (tight,) = (failed_conditions(report, gate(f"white-box@{eps}=1")) for eps in ("4/255", "8/255"))
    assert "under white-box@4/255" in loose
    assert float(loose.split(" is ")[1].split(",")[0]) > float(tight.split(" is ")[1].split(",")[0])
    for missing in ("adaptive=0", "16/255=0", "class:unicorn=0"):
        (sentence,) = failed_conditions(report, gate(missing))
        assert "there is no" in sentence


def test_a_run_that_is_not_complete_passes_nothing(report: Report) -> None:
    unfinished = replace(report, complete=False)
    for condition in (gate("0"), gate(fail_under_clean=0.0), gate(fail_on_flags=True), gate(require_access=("bpda",))):
        assert failed_conditions(unfinished, condition)[0].startswith("the run is not complete")
        assert "shard 2/2 is missing" in failed_conditions(report, condition, ["shard 2/2 is missing"])[0]
    assert failed_conditions(unfinished, Gate()) == []
    assert len(failed_conditions(replace(report, headline=None), gate("0"))) == 1


def test_a_run_past_the_defence_passes_no_threshold_unless_that_is_accepted(past: Report) -> None:
    assert "went through the defence" in failed_conditions(past, gate("0"))[0]
    assert failed_conditions(past, gate("0", accept_access=("transfer",))) == []
    assert failed_conditions(past, gate(require_access=("white-box",))) == [
        "no white-box attack was made in every ball"
    ]


def test_flags_and_weak_budgets_fail_where_that_is_asked_for(report: Report) -> None:
    assert failed_conditions(report, gate(fail_on_flags=True))[0].startswith("check ")
    weak = replace(report, weak=("pgd has 4 of 100 steps",))
    assert failed_conditions(weak, gate(fail_on_weak=True)) == ["weak budget: pgd has 4 of 100 steps"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"budget": {"steps": 100, "eot": 20, "unroll": None}, "reevaluations": 20}, ""),
        ({"budget": {"steps": 10, "eot": 20, "unroll": None}, "reevaluations": 20}, "pgd has 10 of 100 steps"),
        ({"budget": {"steps": 100, "eot": 1, "unroll": None}, "reevaluations": 20}, "one draw"),
        ({"budget": {"steps": 100, "eot": 20, "unroll": 3}, "reevaluations": 20}, "the last 3 optimisation steps"),
        ({"budget": {"steps": 100, "eot": 20, "unroll": None}, "reevaluations": 1}, "evaluated once"),
    ],
)
def test_weak_budgets_are_named(settings: dict[str, object], expected: str, tmp_path: Path) -> None:
    found = weak_points(build_report(write_benchmark(tmp_path, n=200, pictures=False, **settings)))
    assert [expected in sentence for sentence in found] == ([True] if expected else [])


def test_few_images_are_a_weak_budget(tmp_path: Path) -> None:
    found = weak_points(build_report(write_benchmark(tmp_path, n=10, pictures=False, reevaluations=20)))
    assert any("10 images give an interval" in sentence for sentence in found)


def test_weak_budgets_are_on_the_first_screen(tmp_path: Path) -> None:
    write_checked_report(write_benchmark(tmp_path, n=10, pictures=False))
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert 0 < text.index("10 images give an interval") < len(text) / 2
