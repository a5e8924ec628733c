"""Completion of names, asked for as bash asks: through the script that the program prints."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import sys
from cmap_cli.cli.app import main
sys.argv[0] = "cmap"
try:
    main()
finally:
    print("heavy:", sorted({"torch", "numpy", "PIL"} & set(sys.modules)), file=sys.stderr)
"""
QUESTION = """
eval "$SCRIPT"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_cmap_completion cmap
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def environment(folder: Path) -> dict[str, str]:
    """The environment of a shell that finds a command ``cmap``."""
    command = folder / "cmap"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb"}


def run_bash(folder: Path, text: str, **more: str) -> str:
    """What bash prints when it runs a text that calls ``cmap`` once."""
    given = environment(folder) | more
    run = subprocess.run(["bash", "-c", text], env=given, capture_output=True, text=True, timeout=60, check=True)
    assert run.stderr.splitlines().count("heavy: []") == 1, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the program prints for the start-up file of bash."""
    return run_bash(tmp_path_factory.mktemp("script"), "_CMAP_COMPLETE=source_bash cmap")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        (["purify", "--model", "cifar10-"], ["cifar10-unet", "cifar10-gaussian"], ["pyautoattack-resnet18"]),
        (["purify", "--classifier", ""], ["pyautoattack-resnet18"], ["cifar10-unet"]),
        (["benchmark", "--attack", "ap"], ["apgd-ce", "apgd-dlr", "apgd-t"], ["pgd"]),
        (["benchmark", "--attack", "square@"], ["square@black-box", "square@transfer"], ["square@white-box"]),
        (["benchmark", "--attack", "square", "@"], ["@black-box", "@transfer"], ["square@black-box", "@white-box"]),
        (["benchmark", "--attack", "fgsm", "@", "bpda", "--attack", "square", "@", "b"], ["@black-box"], ["@transfer"]),
        (["benchmark", "--require-access", "b"], ["bpda", "black-box"], ["white-box"]),
        (["benchmark", "--dataset", ""], ["cifar10", "imagenet100:"], []),
        (["attack", "cif"], ["cifar10"], ["imagenet100:"]),
        (["benchmark", "--defense", ""], ["cmap", "jpeg", "none"], []),
        (["benchmark", "--norm", "L"], ["Linf", "L2", "L1"], []),
        (["purify", "--preset", "b"], ["balanced"], ["fast"]),
        (["purify", "--num-"], ["--num-latents"], []),
        (["download-weights", "lpips-v"], ["lpips-vgg"], []),
        (["list", ""], ["models", "classifiers", "attacks", "datasets"], []),
        (["b"], ["benchmark"], ["purify"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bash_completes_names(
    tmp_path: Path, script: str, typed: list[str], offered: list[str], not_offered: list[str]
) -> None:
    answers = run_bash(tmp_path, QUESTION.format(words=shlex.join(["cmap", *typed])), SCRIPT=script).split()
    assert set(offered) <= set(answers)
    assert not set(not_offered) & set(answers)


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs bash and a terminal")
def test_a_bash_on_a_terminal_completes_the_access_of_an_attack(tmp_path: Path) -> None:
    """A real bash divides words at @, and replaces what follows it."""
    import pty

    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(tmp_path),
        start_new_session=True,
    )
    os.close(theirs)
    try:
        os.write(ours, b'eval "$(_CMAP_COMPLETE=source_bash cmap)"; echo ready | tr a-z A-Z\n')
        read_until(ours, "READY")
        os.write(ours, b"cmap benchmark --attack square@bl\t")
        shown = read_until(ours, "ack-box ")
        assert "square@black-box " in shown.replace("heavy: []\r\n", "")  # which PROGRAM prints meanwhile
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(terminal: int, text: str, seconds: float = 60) -> str:
    """What a terminal shows until a text appears."""
    shown, end = "", time.monotonic() + seconds
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 4096).decode(errors="replace")
    return shown
