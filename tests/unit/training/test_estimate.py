"""The estimate of a training's time follows the size of the work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from cmap_cli.training import estimate
from cmap_cli.training.photo_recipe import PHOTO_RECIPES, Stage
from cmap_cli.training.recipe import RECIPES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both passes take a second, and with the update two; the work is done once all the same."""
    times = iter([1.0, 2.0] * 10)

    def timed(work: object) -> float:
        assert callable(work)
        work()
        return next(times)

    monkeypatch.setattr(estimate, "timed", timed)


def test_passes_of_a_unet_grow_with_the_batch_and_updates_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.replace(RECIPES["bundled"], widths=(16, 16), images=640, batch_size=64)
    assert recipe.iterations == 10
    seconds = estimate.unet_seconds(recipe, (3, 8, 8), CPU, torch.float32)
    assert seconds == pytest.approx(10 * (64 / estimate.MEASURED_IMAGES + 1))
    assert list(tmp_path.iterdir()) == []


def test_passes_of_a_photograph_model_grow_with_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = (Stage(0, 16, estimate.MEASURED_IMAGES), Stage(4, 32, estimate.MEASURED_IMAGES))
    recipe = dataclasses.replace(PHOTO_RECIPES["bundled"], widths=(16, 16), stages=stages, iterations=6)
    seconds = estimate.photo_seconds(recipe, CPU, torch.float32)
    assert seconds == pytest.approx(4 * 1 + 2 * 4 + 6)
    assert list(tmp_path.iterdir()) == []


def test_a_decomposition_grows_with_the_cube() -> None:
    assert estimate.decomposition_seconds((1, 32, 32)) == pytest.approx(8.0)
