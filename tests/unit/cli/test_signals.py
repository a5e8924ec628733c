"""A signal ends a run with its own exit code, whatever a library makes of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from cmap_cli.cli import app
from cmap_cli.errors import WeightsError


def raised(number: signal.Signals) -> None:
    signal.raise_signal(number)


def turned_into_an_error(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as interruption:
        raise WeightsError("a file cannot be read") from interruption


def turned_into_a_bug(number: signal.Signals) -> None:
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as interruption:
        raise TypeError("an object has no shape") from interruption


@pytest.mark.parametrize("happening", [raised, turned_into_an_error, turned_into_a_bug])
@pytest.mark.parametrize(
    ("number", "name"),
    [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_signal_is_an_interruption(
    happening: Callable[[signal.Signals], None],
    number: signal.Signals,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for each in before:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    monkeypatch.setattr(app, "app", lambda **_: happening(number))
    monkeypatch.setattr(sys, "argv", ["cmap"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        with pytest.raises(SystemExit) as leaving:
            app.main()
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert leaving.value.code == 128 + number
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: interrupted by {name}; finished work is kept."
    assert hint == "hint: the same command continues from there"


def test_errors_without_a_signal_keep_their_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise WeightsError("a file cannot be read")

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(sys, "argv", ["cmap"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as leaving:
        app.main()
    assert leaving.value.code == 2
    assert "error: a file cannot be read." in capsys.readouterr().err
