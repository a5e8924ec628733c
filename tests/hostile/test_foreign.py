"""Hostile models, labels, manifests and output folders: one line, exit code 2, JSON with --json, no code is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.hostile.foreign import GROUPS, Case


def faults(case: Case, folder: Path, invoke: Run) -> Iterator[str]:
    """What is wrong with how a case is refused."""
    case.write(folder)
    before = {path for path in folder.rglob("*") if path.is_file()}
    run = invoke(*case.arguments, "--json", **case.environment)
    if run.returncode != 2 or "Traceback" in run.stderr:
        yield f"exit code {run.returncode}: {run.stderr[-1500:]}"
        return
    document = json.loads(run.stdout)
    told = [line for line in run.stderr.splitlines() if not line.startswith(("hint:", "warning:"))]
    if document["exit_code"] != 2 or len(document["errors"]) != 1 or len(told) != 1 or not told[0].startswith("error:"):
        yield f"{document}\n{run.stderr}"
    new = {path for path in folder.rglob("*") if path.is_file()} - before
    if new:
        yield f"wrote {new}"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_foreign_and_damaged_files_are_refused_in_one_line(
    group: Callable[[], Iterator[Case]], invoke: Run, tmp_path: Path
) -> None:
    found = []
    for case in group():
        found += [f"{case.name}: {fault}" for fault in faults(case, tmp_path, invoke)]
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not found, "\n\n".join(found)
