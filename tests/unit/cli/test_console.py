"""What the progress lines promise."""

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
