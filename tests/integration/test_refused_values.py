"""Values that no run can use end in one error line and exit code 2, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run

MANY = "9" * 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["purify", "in", "--out", "o", "--num-latents", MANY], f"--num-latents {MANY} is above 1000000000"),
        (["benchmark", "--n", "2", "--steps", MANY], f"--steps {MANY} is above 1000000000"),
        (["certify", "--sigma", "0.25", "--n", MANY], f"--n {MANY} is above 1000000000"),
        (
            ["train", "in", "--out", "o", "--kind", "unet", "--images-seen", MANY],
            f"--images-seen {MANY} is above 1000000000",
        ),
        (["purify", "in", "--out", ""], "--out is empty"),
        (["attack", "cifar10", "--out", ""], "--out is empty"),
        (["benchmark", "--out", ""], "--out is empty"),
        (["merge", "in", "--out", ""], "--out is empty"),
        (["purify", "in", "--out", "in/a.png"], "--out in/a.png is a file"),
        (["attack", "cifar10", "--out", "in/a.png"], "--out in/a.png is a file"),
        (["benchmark", "--out", "in/a.png"], "--out in/a.png is a file"),
        (["certify", "--out", "in/a.png"], "--out in/a.png is a file"),
        (["train", "in", "--out", "in/a.png"], "--out in/a.png is a file"),
        (["merge", "in", "--out", "in/a.png"], "--out in/a.png is a file"),
    ],
)
def test_values_that_no_run_can_use(invoke: Run, images: Path, arguments: list[str], message: str) -> None:
    run = invoke(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"error: {message}" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "")])
def test_an_environment_that_torchrun_did_not_make(
    invoke: Run, images: Path, monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    run = invoke("purify", "in", "--out", "o")
    assert run.returncode == 2
    assert f"RANK '{rank}' and WORLD_SIZE '{size}'" in run.stderr
    assert "Traceback" not in run.stderr
