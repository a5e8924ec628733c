"""Fixtures shared by all tests."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel, one process a core

import torch
from PIL import Image

from cmap_cli.cli import app
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.store import save_model
from cmap_cli.training.photo_recipe import PHOTO_RECIPES
from tests.hostile_server import Served, serving

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a consistency model of 8×8 images, quick to run."""
    folder = tmp_path_factory.mktemp("model")
    basis = torch.linalg.qr(torch.randn(192, 60, generator=torch.Generator().manual_seed(0)))[0].T
    save_model(
        GaussianConsistency(torch.zeros(3, 8, 8), basis, torch.linspace(2, 0.1, 60)), folder / "model.safetensors"
    )
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder ``in`` with five 8×8 PNG files, two of them in a subfolder."""
    generator = torch.Generator().manual_seed(0)
    for name in ("a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (8, 8, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    return tmp_path / "in"


@pytest.fixture
def narrow_photo_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of photograph models with the network that is the quickest to train."""
    narrow = replace(PHOTO_RECIPES["bundled"], widths=(8, 8, 8), blocks=1, middle=1)
    monkeypatch.setitem(PHOTO_RECIPES, "bundled", narrow)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A Hugging Face of our own."""
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


@pytest.fixture
def cmap(tmp_path: Path) -> Run:
    """Runs ``cmap`` as a real process in ``tmp_path``."""

    def run(*arguments: str | Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cmap_cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "CMAP_DEVICE": "cpu", **environment},
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def invoke(tmp_path: Path) -> Run:
    """Runs ``cmap`` inside this process, in ``tmp_path``; for all but kills, pipes and start-up."""

    def run(*arguments: str | Path, stdin: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["cmap", *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        settings = {"NO_COLOR": "1", "COLUMNS": "200", "CMAP_DEVICE": "cpu", **environment}
        code: object = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "stdin", io.StringIO(stdin or ""))
            for name, value in settings.items():
                patch.setenv(name, value)
            try:
                app.main()
            except SystemExit as leaving:
                code = leaving.code or 0
            except Exception:  # what would be a traceback and exit code 1 in a process
                traceback.print_exc()
                code = 1
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    return run
