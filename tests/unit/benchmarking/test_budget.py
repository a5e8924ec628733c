"""What --budget promises: a plan that fits the time, that the user's own choices bind, and that a resume keeps."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from cmap_cli.benchmarking.budget import (
    SMALLEST,
    chosen_by_user,
    parse_duration,
    plan_time,
    recorded_plan,
    seconds_of,
    span_of,
    used_fields,
    weak_plan,
    widths,
    with_possible_images,
)
from cmap_cli.benchmarking.cost import CostModel, PassSeconds, forecast_of, timed_pass
from cmap_cli.benchmarking.plan import with_settings
from cmap_cli.benchmarking.settings import BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark, prepare_benchmark
from cmap_cli.errors import UsageError
from cmap_cli.runs.shard import Shard


@pytest.fixture
def prepared(small_model: Path, tmp_path: Path) -> PreparedBenchmark:
    """Forty images in front of a toy, with two attacks through the defence."""
    x = np.random.default_rng(0).uniform(0.3, 0.6, (40, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(40) % 4)
    settings = BenchmarkSettings(
        model=str(small_model),
        classifier="tests.toys:quadrant_classifier",
        steps=4,
        num_latents=1,
        device="cpu",
        attack=("pgd@bpda", "pgd@white-box"),
    )
    return prepare_benchmark([str(tmp_path / "data.npz")], settings, all_images=True)[0]


@pytest.fixture
def costs(prepared: PreparedBenchmark) -> CostModel:
    """A device of which every pass is known: 0.1 s an optimisation step, ten times as much with the gradient."""
    one, ten = PassSeconds(0.1, 0.1), PassSeconds(1.0, 1.0)
    timed = {("evaluation", "none"): PassSeconds(0.01, 0.0), ("evaluation", "cmap"): one}
    timed |= {("forward", "transfer", ""): PassSeconds(0.01, 0.0)}
    timed |= {("gradient", "bpda", "cmap"): one, ("gradient", "white-box", "cmap"): ten}
    return CostModel(prepared.campaign, timed)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5 min", 90)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "-5m", "0s", "1d"])
def test_texts_that_are_no_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


def test_a_part_of_a_run_cannot_be_planned() -> None:
    with pytest.raises(UsageError, match="plans for one process"):
        seconds_of("10m", Shard(1, 2))


@pytest.mark.parametrize("seconds", [500, 2000, 20000, 1e6])
def test_the_plan_fits_and_uses_the_time(costs: CostModel, seconds: float) -> None:
    settings = BenchmarkSettings()
    chosen = plan_time(costs, settings, (), seconds, seconds)
    assert span_of(costs, settings, chosen).high <= seconds
    if chosen["n"] < 40:
        more = {**chosen, "n": chosen["n"] + 1}
        assert span_of(costs, settings, more).high > seconds


def test_as_many_images_are_begun_as_there_can_be_time_for(costs: CostModel) -> None:
    settings = BenchmarkSettings()
    cautious = plan_time(costs, settings, (), 700, 700)
    possible = with_possible_images(costs, settings, cautious, 700)
    assert cautious["n"] < possible["n"] < 40
    assert possible == cautious | {"n": possible["n"]}
    assert span_of(costs, settings, possible).low <= 700 < span_of(costs, settings, possible).high
    assert span_of(costs, settings, {**possible, "n": possible["n"] + 1}).low > 700
    assert with_possible_images(costs, settings, {"eot": 2}, 700) == {"eot": 2}


def test_more_time_never_gives_a_smaller_plan(costs: CostModel) -> None:
    plans = [plan_time(costs, BenchmarkSettings(), (), seconds, seconds) for seconds in (500, 2000, 20000, 1e6)]
    for less, more in itertools.pairwise(plans):
        assert more["attack_steps"] >= less["attack_steps"]
        assert more["reevaluations"] >= less["reevaluations"]
    assert plans[0]["n"] < plans[-1]["n"] == 40
    assert (plans[-1]["attack_steps"], plans[-1]["reevaluations"], plans[-1]["eot"]) == (100, 20, 20)


def test_the_users_own_choices_stay(costs: CostModel) -> None:
    settings = BenchmarkSettings(n=3, eot=2)
    assert chosen_by_user(settings) == {"n", "eot"}
    chosen = plan_time(costs, settings, {"attack_steps", *chosen_by_user(settings)}, 5000, 5000)
    assert not {"n", "eot", "attack_steps"} & chosen.keys()
    assert "reevaluations" in chosen


def test_only_what_takes_time_is_planned(costs: CostModel) -> None:
    assert used_fields(costs) == {"n", "control_images", "attack_steps", "reevaluations", "eot"}


def test_a_time_that_is_too_short_is_refused(costs: CostModel) -> None:
    with pytest.raises(UsageError, match="--budget of 20 s is too short: 2 images"):
        plan_time(costs, BenchmarkSettings(), (), 20, 20)
    assert span_of(costs, BenchmarkSettings(), SMALLEST).low > 20


def test_the_planned_run_costs_what_was_planned(costs: CostModel, prepared: PreparedBenchmark) -> None:
    settings = BenchmarkSettings(attack=("pgd@bpda", "pgd@white-box"))
    chosen = plan_time(costs, settings, (), 3000, 3000)
    ready = with_settings(prepared, [prepared.settings["dataset"]], dataclasses.replace(settings, **chosen))
    forecast = forecast_of(CostModel(ready.campaign, costs.timed), ready.campaign.tasks())
    assert forecast.left().high == pytest.approx(span_of(costs, settings, chosen).high)
    assert ready.settings["n"] == chosen["n"] == len(ready.campaign.dataset)


def test_a_plan_lists_weak_budgets_and_widths_of_the_interval(prepared: PreparedBenchmark) -> None:
    assert any(sentence.startswith("pgd has 10 of 100 steps") for sentence in weak_plan(prepared))
    none, half = widths(16)
    assert (round(none), round(half)) == (19, 44)


def test_a_recorded_plan(tmp_path: Path) -> None:
    assert recorded_plan(tmp_path, 600) is None
    document = {
        "schema": "cmap.benchmark/1",
        "settings": {},
        "provenance": {"plan": {"seconds": 600, "chosen": {"n": 7}}},
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(document))
    assert recorded_plan(tmp_path, 600) == {"n": 7}
    with pytest.raises(UsageError, match="was planned for 600 s, not for 60 s"):
        recorded_plan(tmp_path, 60)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ([1.5, 0.02, 9.0], (0.01, 2)),  # the first starts threads
        ([0.06, 0.05, 0.3, 0.04], (0.02, 4)),  # one has to wait for a core
        ([3.0, 0.1], (1.5, 1)),  # a large network is timed once
    ],
)
def test_the_quickest_of_several_passes_is_taken(
    monkeypatch: pytest.MonkeyPatch, passes: list[float], expected: tuple[float, int]
) -> None:
    now, left = [0.0], iter(passes)
    monkeypatch.setattr("cmap_cli.benchmarking.cost.time.perf_counter", lambda: now[0])
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        now[0] += next(left)

    assert (timed_pass(run, 2), len(runs)) == (pytest.approx(expected[0]), expected[1])
