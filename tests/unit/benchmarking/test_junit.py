"""JUnit XML says what the report says, and fails where a threshold is missed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from cmap_cli.benchmarking.junit import junit
from cmap_cli.benchmarking.report import build_report
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.thresholds import Gate, failed_conditions, parse_threshold
from tests.fake_benchmark import write_benchmark


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build_report(write_benchmark(tmp_path_factory.mktemp("run"), pictures=False))


def test_junit_has_a_case_for_each_attack_and_check(report: Report) -> None:
    root = ElementTree.fromstring(junit(report, [], Gate()))
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"cmap.cmap", "cmap.onestep", "cmap.checks", "cmap.conditions"}
    names = [case.get("name") for case in suites["cmap.cmap"]]
    assert "clean" in names
    assert "pgd@white-box, Linf 8/255" in names
    assert "worst case, Linf 4/255" in names
    assert len(suites["cmap.checks"]) == len(report.flags)
    assert all(suite.get("failures") == "0" for suite in root)
    (clean,) = (case for case in suites["cmap.cmap"] if case.get("name") == "clean")
    assert f"n = {report.headline.n}" in (clean.findtext("system-out") or "")  # type: ignore[union-attr]


def test_junit_fails_for_each_condition_that_is_not_met(report: Report) -> None:
    texts = ["robust accuracy is 0.100, below 0.5", 'check <x> & "y": fired']
    root = ElementTree.fromstring(junit(report, texts, Gate()))
    suite = root.find("testsuite[@name='cmap.conditions']")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    assert [case.find("failure").get("message") for case in suite] == texts  # type: ignore[union-attr]


def failed_cases(report: Report, gate: Gate) -> dict[str, str]:
    """Name and sentence of each failed case of the defence in the headline."""
    root = ElementTree.fromstring(junit(report, failed_conditions(report, gate), gate))
    suites = [suite for suite in root if suite.get("name") not in {"cmap.checks", "cmap.conditions"}]
    assert all(suite.get("failures") == "0" for suite in suites if suite.get("name") != "cmap.cmap")
    (own,) = (suite for suite in suites if suite.get("name") == "cmap.cmap")
    found = {case.get("name", ""): failure.get("message", "") for case in own for failure in case.findall("failure")}
    assert own.get("failures") == str(len(found))
    return found


def test_junit_fails_the_attack_the_worst_case_or_clean_images_that_a_threshold_judges(report: Report) -> None:
    gate = Gate(tuple(map(parse_threshold, ["white-box@4/255=1", "class:cat=1"])))
    ((name, sentence),) = failed_cases(report, gate).items()
    assert name == "pgd@white-box, Linf 4/255"
    assert sentence.startswith("accuracy under pgd@white-box is 0.")
    assert "below 1 (" in sentence
    assert set(failed_cases(report, Gate((parse_threshold("1"),)))) == {"worst case, Linf 8/255"}
    assert set(failed_cases(report, Gate(fail_under_clean=1.0, fail_on="interval"))) == {"clean"}
    assert failed_cases(report, Gate((parse_threshold("white-box=0"), parse_threshold("0")))) == {}


def test_images_that_an_attack_skipped_count_as_broken(report: Report) -> None:
    threat = report.headline_threat()
    assert threat is not None
    (one,) = (each for each in report.defenses if each.defense == "cmap")
    rows = tuple(replace(row, skipped=(1, 2, 3)) if row.access == "white-box" else row for row in threat.attacks)
    threats = tuple(replace(each, attacks=rows) if each is threat else each for each in one.threats)
    skipping = replace(report, defenses=(replace(one, threats=threats),))
    (sentence,) = failed_cases(skipping, Gate((parse_threshold("white-box=1"),))).values()
    assert "accuracy under pgd@white-box and the attacks before it" in sentence
    assert f"of {report.headline.n + 3} images" in sentence  # type: ignore[union-attr]
