from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from cmap_cli.data.inputs import Source
from cmap_cli.errors import SettingsMismatchError
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.loop import TrainingStep
from cmap_cli.training.losses import weight_at
from cmap_cli.training.optimisation import LOG
from cmap_cli.training.photo_loop import photo_batch, train_photo
from cmap_cli.training.photo_recipe import PHOTO_RECIPES, PhotoConfig, Stage
from cmap_cli.training.photos import INDEX, PIXELS, PhotoSet, draw_crops, read_photos

RECIPE = PhotoConfig(
    iterations=12,
    decay=4,
    stages=(Stage(0, 16, 4), Stage(6, 24, 2)),
    widths=(8, 8),
    blocks=1,
    middle=1,
    warmup=2,
    checkpoint_every=5,
)
CPU = torch.device("cpu")


def ignore(_: object = None) -> None:
    pass


@pytest.fixture
def photos(tmp_path: Path) -> PhotoSet:
    """Three smooth pictures of different sizes, and a file that is none."""
    sources = []
    for index, (height, width) in enumerate([(40, 60), (70, 50), (20, 20)]):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 100 * np.sin(0.1 * (index + 1) * x + 0.2 * channel * y) for channel in range(3)]
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(path)
        sources.append(Source(path, None, None, PurePosixPath(path.name)))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    sources.insert(1, Source(tmp_path / "broken.png", None, None, PurePosixPath("broken.png")))
    failures: list[object] = []
    found = read_photos(sources, tmp_path, ignore, failures.append)
    assert len(failures) == 1
    written = (tmp_path / PIXELS).stat().st_mtime_ns
    again = read_photos(sources, tmp_path, ignore, failures.append)
    assert (written, again.shapes) == ((tmp_path / PIXELS).stat().st_mtime_ns, found.shapes)
    index = (tmp_path / INDEX).read_bytes()
    for damage in (b"", b"{}", index[:30]):
        (tmp_path / INDEX).write_bytes(damage)
        assert read_photos(sources, tmp_path, ignore, failures.append).shapes == found.shapes
        assert (tmp_path / INDEX).read_bytes() == index
    (tmp_path / PIXELS).write_bytes(b"short")
    return read_photos(sources, tmp_path, ignore, failures.append)


def train(
    photos: PhotoSet, folder: Path, config: PhotoConfig = RECIPE, stop_after: int | None = None
) -> dict[str, torch.Tensor]:
    class StoppedError(Exception):
        pass

    def on_progress(progress: TrainingStep) -> None:
        if progress.iteration == stop_after:
            raise StoppedError

    try:
        return train_photo(photos, config, folder, on_progress, CPU)[0].backbone.state_dict()
    except StoppedError:
        return {}


def test_photographs_are_decoded_at_their_sizes(photos: PhotoSet, tmp_path: Path) -> None:
    assert photos.shapes == ((40, 60), (70, 50), (20, 20))
    for index in range(3):
        np.testing.assert_array_equal(photos[index], np.asarray(Image.open(tmp_path / f"{index}.png")))
    trained, held_out = photos.split()
    assert (trained.shapes, held_out.shapes) == (photos.shapes[1:], photos.shapes[:1])


def test_crops_depend_on_the_seed_alone(photos: PhotoSet) -> None:
    first = draw_crops(photos, 8, 32, (0, 5))
    assert first.shape == (8, 3, 32, 32)
    assert -1 <= float(first.min()) < float(first.max()) <= 1
    assert torch.equal(first, draw_crops(photos, 8, 32, (0, 5)))
    assert not torch.equal(first, draw_crops(photos, 8, 32, (0, 6)))
    assert not torch.equal(first, draw_crops(photos, 8, 32, (1, 5)))


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    photos: PhotoSet, tmp_path: Path, optimiser: str
) -> None:
    recipe = dataclasses.replace(RECIPE, optimiser=optimiser)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = train(photos, whole, recipe)
    train(photos, parts, recipe, stop_after=8)  # the last checkpoint is of iteration 5
    assert (parts / CHECKPOINT).exists()
    resumed = train(photos, parts, recipe)
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=0)
    assert len((whole / LOG).read_text().splitlines()) == 3


def test_a_run_is_made_longer_but_not_of_another_recipe(photos: PhotoSet, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(photos, folder)
    reached: list[int] = []
    longer = dataclasses.replace(RECIPE, iterations=15)
    train_photo(photos, longer, folder, lambda progress: reached.append(progress.iteration), CPU)
    assert reached == [13, 14, 15]
    with pytest.raises(SettingsMismatchError, match="other settings"):
        train(photos, folder, dataclasses.replace(RECIPE, lr=5e-4))


def test_training_denoises_and_begins_with_given_weights(photos: PhotoSet, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, iterations=150, decay=50, lr=5e-3, stages=(Stage(0, 16, 8),), uniform=0.0)
    losses: list[float] = []
    model, psnr, _ = train_photo(photos, recipe, tmp_path, lambda step: losses.append(float(step.loss)), CPU)
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])
    assert max(each[0.3] for each in psnr.values()) > 17.5  # 16.5 dB before
    other = tmp_path / "other"
    other.mkdir()
    short = dataclasses.replace(recipe, iterations=2, lr=0.0)
    again, _, _ = train_photo(photos, short, other, ignore, CPU, initial=model)
    for name, value in model.backbone.state_dict().items():
        torch.testing.assert_close(again.backbone.state_dict()[name], value)


def test_levels_are_those_of_the_recipe(photos: PhotoSet) -> None:
    model = PhotoConsistency((8, 8), 1, 1)
    recipe = dataclasses.replace(RECIPE, stages=(Stage(0, 8, 4000),), uniform=0.0)
    levels = photo_batch(photos, recipe, model, 0).sigma.log()
    assert float(levels.mean()) == pytest.approx(-1.6, abs=0.05)
    assert float(levels.std()) == pytest.approx(0.8, abs=0.05)
    spread = photo_batch(photos, dataclasses.replace(recipe, uniform=1.0), model, 0).sigma
    assert 0.002 <= float(spread.min()) < 0.003
    assert 60 < float(spread.max()) <= 80


def test_stages_and_learning_rates_of_iterations() -> None:
    assert [RECIPE.stage_at(iteration).side for iteration in (0, 5, 6, 11)] == [16, 16, 24, 24]
    assert [RECIPE.images_until(iteration) for iteration in (0, 3, 6, 8)] == [0, 12, 24, 28]
    longer = dataclasses.replace(RECIPE, iterations=100)
    assert [RECIPE.lr_at(iteration) for iteration in range(8)] == [longer.lr_at(iteration) for iteration in range(8)]
    assert RECIPE.lr_at(11) == pytest.approx(RECIPE.lr / 4)
    assert RECIPE.ema_decays_at(0) == [0.1, 0.1]
    assert RECIPE.ema_decays_at(100_000) == pytest.approx([2 ** (-1 / 150), 2 ** (-1 / 1500)])
    for recipe in PHOTO_RECIPES.values():
        assert recipe.decay < recipe.iterations
        assert recipe.stages[0].start == 0


def test_weights_of_the_loss() -> None:
    sigma = torch.tensor([0.1, 0.5, 5.0])
    torch.testing.assert_close(weight_at(sigma, "edm"), 1 / sigma**2 + 4)
    torch.testing.assert_close(weight_at(sigma, "min-snr"), torch.tensor([5.0, 1.0, 0.01]))
    torch.testing.assert_close(weight_at(sigma, "plain"), torch.ones(3))
