"""What the progress lines promise."""

import io
import sys

import pytest
from rich.console import Console

from cmap_cli.cli import console, progress, stdout
from cmap_cli.runs.forecast import Span


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets, and a Reporter that tells its lines to it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_finished_work_of_an_earlier_run_is_not_used_for_the_time_left(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    reporter = progress.Reporter(100, "iterations", None)
    reporter.reach(50)
    clock[0] = 40.0
    reporter.reach(52)
    clock[0] = 200.0
    reporter.reach(60)
    assert lines == ["52/100 iterations", "60/100 iterations, 11 to 16 min left"]


def test_the_time_left_of_a_new_run_is_computed_from_its_start(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    reporter = progress.Reporter(10, "images", None)
    clock[0] = 30.0
    reporter.advance(3)
    assert lines == ["3/10 images, 54 s to 2 min left"]


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
        monkeypatch.setattr(stdout, "results", stream if given else None)
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


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.3, "less than 1 s"),
        (3, 8, "3 to 8 s"),
        (250, 540, "4 to 9 min"),
        (30, 200, "30 s to 3 min"),
        (300, 320, "about 5 min"),
        (5000, 9000, "1.4 to 2.5 h"),
        (2400, 7300, "40 min to 2.0 h"),
        (200000, 900000, "2 to 10 days"),
    ],
)
def test_estimates_are_ranges(low: float, high: float, said: str) -> None:
    assert console.time_range(Span(low, high)) == said


def test_a_terminal_shows_a_spinner_while_something_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "errors", Console(file=shown, force_terminal=True, width=80))
    with progress.reporting(None, "tasks", loading="loading the models"):
        pass
    with console.working("measuring how long this takes"):
        pass
    assert "loading the models" in shown.getvalue()
    assert "measuring how long this takes" in shown.getvalue()
    assert "\u280b" in shown.getvalue()  # the first picture of the spinner


def test_a_pipe_gets_a_line_while_something_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "say", lines.append)
    with progress.reporting(None, "tasks", loading="loading the models"), console.working("measuring"):
        assert lines == ["loading the models ...", "measuring ..."]
