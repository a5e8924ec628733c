"""Kills at random moments; ``CMAP_KILLS`` sets how many, ``python -m tests.hostile.kills --help`` shows more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = os.environ.get("CMAP_KILLS", "200")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_kills_at_random_moments_lose_nothing_and_leave_nothing() -> None:
    command = [sys.executable, "-m", "tests.hostile.kills", "--kills", KILLS]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"\n{KILLS} kills in " in run.stdout
