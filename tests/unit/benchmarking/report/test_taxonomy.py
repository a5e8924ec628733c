"""Attacks in the words of NIST AI 100-2 and MITRE ATLAS."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from cmap_cli.benchmarking.report import build_report
from cmap_cli.benchmarking.report.taxonomy import PLACES
from cmap_cli.choices import Access
from tests.unit.benchmarking.report.test_report import attacked, clean, known, write_run


def test_every_access_has_a_place() -> None:
    assert set(PLACES) == set(get_args(Access))


def test_the_target_is_the_defended_classifier(tmp_path: Path) -> None:
    taxonomy = build_report(write_run(tmp_path, known())).taxonomy
    assert taxonomy is not None
    transfer, bpda = taxonomy.access  # noise is a control
    assert (transfer.access, transfer.knowledge) == ("transfer", "gray-box")
    assert transfer.technique.startswith("AML.T0043.002")
    assert (bpda.access, bpda.knowledge, bpda.attack_class) == ("bpda", "white-box", "NISTAML.022 Evasion")
    assert taxonomy.mitigation == "AML.M0010 Input Restoration"


def test_without_a_defence_the_target_is_the_bare_classifier(tmp_path: Path) -> None:
    for attack, knowledge in (("pgd@transfer", "white-box"), ("square@transfer", "black-box")):
        records = [clean(0, [1], "none"), attacked(0, attack, [2], "none")]
        taxonomy = build_report(write_run(tmp_path, records)).taxonomy
        assert taxonomy is not None
        assert taxonomy.mitigation is None
        assert [(one.access, one.knowledge) for one in taxonomy.access] == [("transfer", knowledge)]


def test_controls_alone_have_no_taxonomy(tmp_path: Path) -> None:
    records = [clean(0, [1]), attacked(0, "noise@transfer", [2], control=True)]
    assert build_report(write_run(tmp_path, records)).taxonomy is None
