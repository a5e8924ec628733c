"""Completion of names, asked for as bash asks: through the script that the program prints."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
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
eval "$(_CMAP_COMPLETE=source_bash cmap)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_cmap_completion cmap
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered", "not_offered"),
    [
        (["purify", "--model", "cifar10-"], ["cifar10-unet", "cifar10-gaussian"], ["pyautoattack-resnet18"]),
        (["purify", "--classifier", ""], ["pyautoattack-resnet18"], ["cifar10-unet"]),
        (["benchmark", "--attack", "ap"], ["apgd-ce", "apgd-dlr", "apgd-t"], ["pgd"]),
        (["benchmark", "--attack", "square@"], ["square@black-box", "square@transfer"], ["square@white-box"]),
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
def test_bash_completes_names(tmp_path: Path, typed: list[str], offered: list[str], not_offered: list[str]) -> None:
    command = tmp_path / "cmap"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"\n')
    command.chmod(0o755)
    run = subprocess.run(
        ["bash", "-c", QUESTION.format(words=shlex.join(["cmap", *typed]))],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    answers = run.stdout.split()
    assert set(offered) <= set(answers), run
    assert not set(not_offered) & set(answers)
    assert run.stderr.splitlines().count("heavy: []") == 2, run.stderr
