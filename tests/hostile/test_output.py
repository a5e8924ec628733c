"""Names that hold control characters or are no UTF-8, and a stdout that is full, closed or read no further."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmap_cli.cli.stdout import printable
from tests.conftest import Run
from tests.forked import ForkedProcess
from tests.hostile.corpus import picture

ESCAPE = "\x1b]0;owned\x07\x1b[31m\u202e"
"""Sets the window's title, prints in red, and from right to left."""
QUICK = ("--steps", "1", "--num-latents", "1", "--device", "cpu")
COMMAND = [sys.executable, "-m", "cmap_cli"]
FULL = pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="this system has no /dev/full")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "CMAP_DEVICE": "cpu", "PYTHONUTF8": "1", **more}


def started(command: list[str], folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own; both streams are captured unless ``options`` say otherwise."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), "text": True}
    return subprocess.run(command, cwd=folder, check=False, **(streams | options))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with a good and a bad image, both with control characters in their names."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"good{ESCAPE}.png").write_bytes(picture("PNG"))
    (folder / f"bad{ESCAPE}\n.png").write_bytes(b"no picture")
    return folder


def on_terminal(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and all that a command writes to a terminal, on stdout and stderr."""
    leader, follower = pty.openpty()
    terminal = {"stdin": follower, "stdout": follower, "stderr": follower}
    process = ForkedProcess(arguments, folder, environment(TERM="dumb"), **terminal)
    os.close(follower)
    written = b""
    try:
        while block := os.read(leader, 1 << 16):
            written += block
    except OSError:  # the terminal is closed with its last process
        pass
    os.close(leader)
    return process.wait(), written.decode()


@pytest.mark.parametrize("quiet", [["--quiet"], []])
def test_escape_sequences_do_not_reach_the_terminal(odd: Path, small_model: Path, quiet: list[str]) -> None:
    arguments = ["purify", "in", "--out", f"out{ESCAPE}", "--model", str(small_model), *QUICK, *quiet]
    code, text = on_terminal(arguments, odd.parent)
    assert code == 3, text
    assert r"bad\x1b]0;owned\x07\x1b[31m\u202e\n.png" in text
    for forbidden in ("\x1b]", "\x1b[31m", "\x07", "\u202e"):
        assert forbidden not in text
    assert (odd.parent / f"out{ESCAPE}" / f"good{ESCAPE}.png").exists()


def test_messages_are_one_line_wherever_they_go(invoke: Run, odd: Path, small_model: Path) -> None:
    run = invoke("purify", "in", "--out", "out", "--model", str(small_model), *QUICK, "--quiet")
    assert run.returncode == 3
    kinds = [line.split(":")[0] for line in run.stderr.splitlines()]
    assert kinds.count("error") == kinds.count("hint") == 1
    assert set(kinds) <= {"error", "hint", "warning"}
    assert "\x1b" not in run.stderr
    run = invoke("purify", f"no{ESCAPE}", "--out", "out", "--json")
    assert run.returncode == 2
    assert "\x1b" not in run.stderr + run.stdout
    assert len(json.loads(run.stdout)["errors"]) == 1


@pytest.mark.parametrize(
    "name", [r"a\[/x].png", "[/x].png", "[bold].png", r"a\[b", "[red]a[/red].png", "a\\", "{task}.png"]
)
def test_markup_in_names_is_text(invoke: Run, name: str, tmp_path: Path, small_model: Path) -> None:
    bad = tmp_path / "in" / f"{name}.png"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"no picture")
    (tmp_path / "in" / "good.png").write_bytes(picture("PNG"))
    run = invoke("purify", "in", "--out", "out", "--model", str(small_model), *QUICK)
    assert run.returncode == 3, run.stderr
    assert f"in/{name}.png" in run.stderr
    run = invoke("purify", "in", "--out", "elsewhere", "--model", name)
    assert run.returncode == 2, run.stderr
    assert name in run.stderr


def test_printable_text_is_unchanged() -> None:
    for text in ("photo 1.png", "σ × 8/255 − é 日本 😀", "two\n\tlines"):
        assert printable(text) == text
    assert printable("a\r\nb", lines=False) == r"a\r\nb"
    assert printable("\x7f\x9b\u2028\udcff") == r"\x7f\x9b\u2028\udcff"


@pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux only")
@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_name_that_is_no_utf8_is_written_as_it_is(tmp_path: Path, small_model: Path, encoding: str) -> None:
    names = [b"\xff\xfe.png", "é.png".encode(), b"\xe9 latin1.png"]
    for name in names:
        path = tmp_path / "in" / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture("PNG"))
    command = [*COMMAND, "purify", "in", "--out", "out", "--model", str(small_model), *QUICK, "--quiet"]
    given = environment(PYTHONIOENCODING=encoding)
    run = started(command, tmp_path, env=given, text=False)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.splitlines()) == sorted(b"out/" + name for name in names)
    for line in run.stdout.splitlines():
        assert (tmp_path / os.fsdecode(line)).exists()
    again = started([*command, "--json"], tmp_path, env=given)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["already_there"] == 3


@FULL
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list", "models"],
        ["list", "models", "--json"],
        ["info", "--no-self-test"],
        ["purify", "--help"],
    ],
)
def test_a_full_stdout_is_one_error(arguments: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = started([*COMMAND, *arguments], tmp_path, stdout=full)
    assert run.returncode == 1
    message, hint = run.stderr.splitlines()[-2:]
    assert message == "error: no space left to write standard output: No space left on device."
    assert hint.startswith("hint: free some space")
    assert "Traceback" not in run.stderr


@FULL
def test_images_are_kept_when_stdout_or_stderr_is_full(tmp_path: Path, small_model: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(picture("PNG"))
    command = ["purify", "in", "--out", "out", "--model", str(small_model), *QUICK]
    with Path("/dev/full").open("w") as full:
        run = ForkedProcess(
            [*command, "--quiet"], tmp_path, environment(), stdout=full.fileno(), stderr=subprocess.PIPE
        )
        (stderr,) = run.communicate(timeout=120)
        assert run.returncode == 1, stderr
        assert "no space left to write standard output" in stderr
        kept = len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
        assert kept >= 1
        run = ForkedProcess(command, tmp_path, environment(), stdout=subprocess.PIPE, stderr=full.fileno())
        (stdout,) = run.communicate(timeout=120)
    assert run.returncode == 0
    assert f"{2 - kept} image" in stdout
    assert not list((tmp_path / "out").glob(".*"))


def test_a_reader_that_leaves_ends_the_run_quietly(invoke: Run, tmp_path: Path, small_model: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(picture("PNG"))
    command = ["purify", "in", "--out", "out", "--model", str(small_model), *QUICK, "--batch-size", "1"]
    reader, writer = os.pipe()
    process = ForkedProcess([*command, "--quiet"], tmp_path, environment(), stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    os.close(reader)
    (told,) = process.communicate(timeout=120)
    assert process.returncode == 1
    assert told == ""
    run = invoke(*command)
    assert run.returncode == 0, run.stderr
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(tmp_path: Path, small_model: Path, closed: str) -> None:
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    command = (
        f"'{sys.executable}' -m cmap_cli purify a.png --out out --model '{small_model}' {' '.join(QUICK)} {closed}"
    )
    run = started(["sh", "-c", command], tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "a.png").exists()
