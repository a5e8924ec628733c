"""The estimate of a training's time follows the size of the work."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from cmap_cli.runs.forecast import Span
from cmap_cli.training import estimate
from cmap_cli.training.photo_recipe import PHOTO_RECIPES, Stage
from cmap_cli.training.recipe import RECIPES

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both passes take a second, with the update two, half a second more now; the work is done once all the same."""
    times = iter([Span(1.0, 1.5), Span(2.0, 2.5)] * 10)

    def timed(work: object) -> Span:
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
    times = 64 / estimate.MEASURED_IMAGES
    assert (seconds.low, seconds.high) == pytest.approx((10 * (times + 1), 10 * (1.5 * times + 1)))
    assert list(tmp_path.iterdir()) == []


def test_passes_of_a_photograph_model_grow_with_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = (Stage(0, 16, estimate.MEASURED_IMAGES), Stage(4, 32, estimate.MEASURED_IMAGES))
    recipe = dataclasses.replace(PHOTO_RECIPES["bundled"], widths=(16, 16), stages=stages, iterations=6)
    seconds = estimate.photo_seconds(recipe, CPU, torch.float32)
    assert (seconds.low, seconds.high) == pytest.approx((4 * 1 + 2 * 4 + 6, 1.5 * (4 * 1 + 2 * 4) + 6))
    assert list(tmp_path.iterdir()) == []


def test_a_decomposition_grows_with_the_cube() -> None:
    found = estimate.decomposition_seconds((1, 32, 32))
    assert (found.low, found.high) == pytest.approx((8.0, 12.0))


def test_other_work_on_the_machine_widens_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits takes no processor time: on an idle machine it may be as quick as its own work."""
    monkeypatch.undo()
    busy = estimate.timed(lambda: time.sleep(0.2))
    assert busy.high >= 0.2
    assert busy.low < 0.1
