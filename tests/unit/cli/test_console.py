"""What the progress lines promise."""

import io
import sys

import pytest

from cmap_cli.cli import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets, and a Reporter that tells its lines to it."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_what_an_earlier_run_did_says_nothing_about_the_speed(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    reporter = console.Reporter(100, "iterations", None)
    reporter.reach(50)
    clock[0] = 40.0
    reporter.reach(52)
    clock[0] = 200.0
    reporter.reach(60)
    assert lines == ["52/100 iterations", "60/100 iterations, about 13 min left"]


def test_a_fresh_run_is_told_from_its_start(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    reporter = console.Reporter(10, "images", None)
    clock[0] = 30.0
    reporter.advance(3)
    assert lines == ["3/10 images, about 70 s left"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("given", [[], ["results"]])
def test_a_table_is_drawn_on_a_terminal_and_is_markdown_in_a_pipe(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("a|b", "y" * 100), ("pgd@white-box, Linf 8/255", "1")]
    monkeypatch.setenv("TERM", "dumb")  # no colours, 80 columns
    for stream in (Terminal(), io.StringIO()):
        other = Terminal()  # where stdout of other code goes while a command runs
        monkeypatch.setattr(console, "results", stream if given else None)
        monkeypatch.setattr(sys, "stdout", other if given else stream)
        console.table(("name", "about"), rows)
        lines = stream.getvalue().splitlines()
        assert other.getvalue() == ""
        if stream.isatty():
            assert "…" not in stream.getvalue()
            assert max(map(len, lines)) <= 80
            assert sum(line.count("y") for line in lines) == 100
            assert "pgd@white-box," in stream.getvalue()
        else:
            assert lines[0] == "| name | about |"
            assert lines[2].startswith("| a\\|b | yyy")
