"""The GitHub action, the workflows and the Dockerfile are valid, and the action's steps run in a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import Run

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def tool(name: str) -> str:
    """The path of a command of the development environment."""
    found = shutil.which(name, path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, f"{name} is missing: pip install -e '.[dev]'"
    return found


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "action.yml"),
        ("vendor.github-workflows", ".github/workflows/robustness.yml"),
        ("vendor.github-workflows", ".github/workflows/checks.yml"),
        ("vendor.github-workflows", ".github/workflows/audit.yml"),
    ],
)
def test_github_files_fit_their_schemas(schema: str, file: str) -> None:
    command = [tool("check-jsonschema"), "--builtin-schema", schema, str(ROOT / file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_dockerfile_has_no_findings() -> None:
    run = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def run_steps(folder: Path, inputs: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The steps of action.yml one after the other as GitHub runs them, but the installation."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    given = {name: each.get("default", "") for name, each in action["inputs"].items()} | inputs
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_ACTIONS": "true",
        "GITHUB_OUTPUT": str(folder / "output.txt"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "CMAP_DEVICE": "cpu",
    }
    run = subprocess.CompletedProcess[str]([], 0, "", "")
    for step in action["runs"]["steps"][1:]:
        if "if" in step and not given["baseline"]:
            continue
        named = {
            name: given[value.removeprefix("${{ inputs.").removesuffix(" }}")] for name, value in step["env"].items()
        }
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env=environment | named,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            return run
    return run


def workflow_arguments() -> str:
    """The arguments of ``cmap benchmark`` in the workflow of this repository."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "robustness.yml").read_text(encoding="utf-8"))
    (own,) = (step for step in workflow["jobs"]["benchmark"]["steps"] if step.get("uses") == "./")
    return str(own["with"]["arguments"])


def test_the_action_runs_step_by_step(invoke: Run, tmp_path: Path, small_model: Path) -> None:
    """With the arguments of the workflow, but fewer images and steps: the later of two values of an option counts."""
    smaller = "--n 2 --control-images 1 --attack-steps 1 --reevaluations 1 --steps 1 --num-latents 1"
    options = f"{workflow_arguments()} {smaller} --model '{small_model}' --fail-under-clean 0"
    assert invoke("benchmark", *shlex.split(options), "--out", "one").returncode == 0
    run = run_steps(tmp_path, {"arguments": options, "out": "two", "baseline": "one"})
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "output.txt").read_text() == "report=two/report.html\n"
    assert (tmp_path / "cmap-report" / "junit.xml").exists()
    assert "| clean | attacked |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "two" / "compare.svg").exists()
    run = run_steps(tmp_path, {"arguments": f"{options} --fail-under 1.0", "out": "one"})
    assert run.returncode == 1
    assert "::error title=cmap::" in run.stderr
