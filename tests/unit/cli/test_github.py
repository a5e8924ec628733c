"""Annotations and step summaries for GitHub Actions, and nothing of them elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmap_cli.cli.github import annotation, write_step_summary
from tests.conftest import Run


def test_errors_are_annotations_on_stderr_in_github_actions_only(invoke: Run) -> None:
    run = invoke("purify", "nothing", "--out", "o", GITHUB_ACTIONS="true")
    assert run.returncode == 2
    assert "::error title=cmap::'nothing' cannot be found" in run.stderr
    assert run.stdout == ""
    assert "::error" not in invoke("purify", "nothing", "--out", "o", GITHUB_ACTIONS="").stderr


def test_line_ends_do_not_end_an_annotation() -> None:
    assert annotation("warning", "100 %\n::error::x\r") == "::warning title=cmap::100 %25%0A::error::x%0D"


def test_summaries_are_added_to_the_file_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    monkeypatch.setenv("GITHUB_ACTIONS", "")
    assert not write_step_summary("# one")
    assert not path.exists()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert write_step_summary("# one")
    assert write_step_summary("# two\n")
    assert path.read_text() == "# one\n\n# two\n\n"
