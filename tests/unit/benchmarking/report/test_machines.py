"""Badges and model cards say what the report says."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from cmap_cli.benchmarking.report import build_report
from cmap_cli.benchmarking.report.machines import badge, model_card
from cmap_cli.benchmarking.report.values import Report
from tests.fake_benchmark import write_benchmark


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build_report(write_benchmark(tmp_path_factory.mktemp("run"), pictures=False))


def test_the_badge_tells_accuracy_only_of_complete_runs_through_the_defence(report: Report) -> None:
    assert report.headline
    found = json.loads(badge(report))
    assert found["schemaVersion"] == 1
    assert found["message"].endswith("at Linf 8/255, n = 20")
    assert found["color"] in {"brightgreen", "green", "yellow", "orange", "red"}
    for other in (
        replace(report, complete=False),
        replace(report, headline=None),
        replace(report, headline=replace(report.headline, through_defense=False)),
    ):
        assert json.loads(badge(other))["message"] == "not measured"


def test_the_model_card_is_yaml_even_for_odd_names(report: Report) -> None:
    odd = replace(report, settings={**report.settings, "classifier": 'a: "b" # \u00e9\n- c'})
    block = model_card(odd).split("---\n")[1]
    (entry,) = yaml.safe_load(block)["model-index"]
    assert entry["name"] == 'a: "b" # \u00e9\n- c'
    metrics = entry["results"][0]["metrics"]
    assert {"cmap, clean", "cmap, worst case, Linf 8/255"} <= {metric["name"] for metric in metrics}
    assert all(0 <= metric["value"] <= 1 for metric in metrics)
