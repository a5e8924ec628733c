"""``cmap`` as a process of its own that is forked from one with PyTorch imported: it starts in 0.1 s instead of 3.

For tests of signals, kills, terminals and pipes. What Python does before the first line of a program (closed streams,
encodings of the environment) needs ``python -m cmap_cli``. The processes are not forked from the tests themselves, as
tests/hostile/kills.py does: pytest-xdist runs tests beside threads, which a fork would not copy.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

ROOMS = ("cli.app", "purify.run", "benchmarking.run", "benchmarking.certificates.run", "models.weights.obtain")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([f"cmap_cli.{room}" for room in ROOMS])


def nothing() -> None:
    """Do nothing before the command."""


def body(before: Callable[[], None], arguments: list[str], cwd: str, env: dict[str, str], streams: list[Any]) -> None:
    """What the new process does."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin = os.fdopen(0, closefd=False, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)
    sys.argv = ["cmap", *arguments]
    before()
    from cmap_cli.cli.app import main

    main()


class ForkedProcess:
    """The part of ``subprocess.Popen`` that tests use.

    Args:
        arguments: of ``cmap``.
        cwd: its working directory.
        env: all its variables.
        stdin: a file descriptor; /dev/null by default, as for the two others.
        stdout: a file descriptor, or ``subprocess.PIPE``.
        stderr: the same.
        before: a function of a module, called in the new process before the command.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        before: Callable[[], None] = nothing,
    ) -> None:
        self.files = ExitStack()
        self.written: list[IO[str]] = []
        given, opened = [], []
        for each, flag in ((stdin, os.O_RDONLY), (stdout, os.O_WRONLY), (stderr, os.O_WRONLY)):
            if each == subprocess.PIPE:
                writer, name = tempfile.mkstemp()
                Path(name).unlink()
                self.written.append(self.files.enter_context(os.fdopen(os.dup(writer), encoding="utf-8")))
            else:
                writer = os.open(os.devnull, flag) if each is None else os.dup(each)
            opened.append(writer)
            given.append(DupFd(writer))
        self.process = SERVER.Process(target=body, args=(before, list(arguments), str(cwd), dict(env), given))
        self.process.start()
        for descriptor in opened:
            os.close(descriptor)
        assert self.process.pid is not None
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        """As :meth:`poll`."""
        return self.poll()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it ends."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("cmap", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> list[str]:
        """All that it has written to the streams that are ``subprocess.PIPE``, when it ends."""
        self.wait(timeout)
        with self.files:
            for file in self.written:
                file.seek(0)
            return [file.read() for file in self.written]

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)
