"""Pictures of any size, with the models that ``--model auto`` takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cmap_cli
from cmap_cli import purify_folder, purify_images
from cmap_cli.core import sizes
from cmap_cli.purify.events import Progress
from tests.conftest import Run

ASSETS = Path(cmap_cli.__file__).parent / "assets"
SIZES = {"small.png": (32, 32), "wide.png": (75, 40), "tall.png": (41, 90), "twin.png": (75, 40), "tiny.png": (5, 3)}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A dark gradient, a flat sky and a texture."""
    rows, columns = np.mgrid[:height, :width] / max(width, height)
    sky = np.stack([0.45 + 0 * rows, 0.6 + 0 * rows, 0.85 + 0 * rows], -1)
    dark = np.stack([0.15 * columns, 0.1 * columns, 0.12 * rows], -1)
    texture = 0.2 * np.random.default_rng(seed).random((height, width, 1))
    values = np.where(rows[..., None] < 0.25, sky, dark + np.where(columns > 0.5, 1, 0)[..., None] * texture)
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        picture(*size, seed=number).save(folder / name)
    return folder


def records(folder: Path) -> dict[str, dict[str, object]]:
    lines = map(json.loads, (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines())
    return {str(line["output"]): line for line in lines}


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    with Image.open(path) as opened:
        return np.asarray(opened, float)


def test_every_picture_keeps_its_size_and_colours(invoke: Run, photographs: Path, tmp_path: Path) -> None:
    run = invoke("purify", photographs, "--out", "clean", "--preset", "fast")
    assert run.returncode == 0, run.stderr
    assert "5 images purified into clean with " in run.stdout
    assert "cifar10-unet (1)" in run.stdout
    assert "photo-unet (4)" in run.stdout
    found = records(tmp_path / "clean")
    for name, size in SIZES.items():
        before, after = pixels(photographs / name), pixels(tmp_path / "clean" / name)
        assert before.shape == after.shape
        record = found[name]
        assert (record["width"], record["height"], record["fit"]) == (*size, "exact")
        by = ("cifar10-unet", "optimise") if size == (32, 32) else ("photo-unet", "denoise")
        assert (record["model"], record["method"]) == by
        assert record["l1"] == pytest.approx(np.abs(after - before).mean() / 255, abs=1e-4)
        if min(size) >= 40:
            assert np.abs(after.mean((0, 1)) - before.mean((0, 1))).max() < 1
            assert float(str(record["psnr"])) > 28
    settings = json.loads((tmp_path / "clean/run.json").read_text(encoding="utf-8"))["settings"]
    assert settings["model"] == "auto"
    assert {name: each["method"] for name, each in settings["models"].items()} == {
        "cifar10-unet": "optimise",
        "photo-unet": "denoise",
    }


@pytest.mark.parametrize(("name", "megabytes"), [("cifar10-gaussian", 4), ("cifar10-unet", 16), ("photo-unet", 8)])
def test_models_in_the_package_are_small(name: str, megabytes: int) -> None:
    assert (ASSETS / name / "model.safetensors").stat().st_size <= megabytes * 1_000_000


def test_a_picture_does_not_depend_on_the_others_or_on_the_order(photographs: Path, tmp_path: Path) -> None:
    options = {"preset": "fast", "device": "cpu", "precision": "fp32"}
    names = list(SIZES)[1:]
    purify_folder(photographs, tmp_path / "together", **options)
    purify_folder([photographs / name for name in reversed(names)], tmp_path / "reversed", **options)
    memory = purify_images([Image.open(photographs / name) for name in names], **options).images
    for name, image in zip(names, memory, strict=True):
        purify_folder(photographs / name, tmp_path / name, **options)
        together = pixels(tmp_path / "together" / name)
        (alone,), (turned,) = ((tmp_path / each).rglob(name) for each in (name, "reversed"))
        for other in (pixels(alone), pixels(turned), np.asarray(image, float)):
            assert np.abs(together - other).max() <= 1


def test_candidates_vote_at_the_pictures_own_size(photographs: Path) -> None:
    given = [Image.open(photographs / name) for name in ("wide.png", "tall.png", "small.png")]
    result = purify_images(given, classifier="tests.toys:quadrant_classifier", keep_candidates=True, device="cpu")
    assert result.candidates is not None
    assert [tuple(each.shape) for each in result.candidates] == [(4, 3, 40, 75), (4, 3, 90, 41), (10, 3, 32, 32)]
    assert result.predictions is not None
    assert all(each.before == each.vote for each in result.predictions)
    mean = result.candidates[0].mean(0)
    written = torch.from_numpy(np.array(result.images[0])).movedim(-1, 0) / 255
    assert float((mean - written).abs().max()) <= 0.5 / 255 + 1e-6


def test_large_pictures_go_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(420, 300).save(tmp_path / "large.png")
    whole = purify_images(Image.open(tmp_path / "large.png"), preset="fast", device="cpu").images
    monkeypatch.setattr(sizes, "WINDOW", 64)
    told: list[Progress] = []
    purify_folder(tmp_path / "large.png", tmp_path / "out", preset="fast", device="cpu", on_progress=told.append)
    (written,) = (tmp_path / "out").rglob("*.png")
    assert np.abs(pixels(written) - np.asarray(whole, float)).max() <= 1
    steps = [(event.step.index, event.step.steps) for event in told if event.step is not None]
    assert steps == [(index, 35) for index in range(35)]
    assert all(event.loss is None for event in told)


def test_the_method_is_an_option(invoke: Run, photographs: Path, tmp_path: Path) -> None:
    command = ("purify", photographs / "small.png", "--method", "denoise", "--quiet")
    assert invoke(*command, "--out", "a", "--denoise-level", "0.1", "--num-latents", "2").returncode == 0
    (record,) = records(tmp_path / "a").values()
    assert (record["model"], record["method"], record["num_latents"], record["steps"]) == (
        "cifar10-unet",
        "denoise",
        2,
        0,
    )
    assert record["objective"] is None
    for options, message in (
        (("--preset", "paper"), "--method denoise needs a noise level above 0"),
        (("--steps", "3"), "--steps does not go with denoising alone"),
        (("--model", "cifar10-gaussian"), "this model has no denoiser"),
    ):
        run = invoke(*command, "--out", "b", *options)
        assert (run.returncode, message in run.stderr) == (2, True), run.stderr


def test_the_published_method_runs_on_photographs_and_says_that_it_blurs(
    invoke: Run, photographs: Path, tmp_path: Path
) -> None:
    quick = ("--preset", "paper", "--steps", "1", "--num-latents", "2")
    run = invoke("purify", photographs / "wide.png", photographs / "tall.png", "--out", "paper", *quick)
    assert run.returncode == 0, run.stderr
    assert "photo-unet was trained to denoise only: optimised latents give a blur" in run.stderr
    assert {record["method"] for record in records(tmp_path / "paper").values()} == {"optimise"}
    assert pixels(next((tmp_path / "paper").rglob("wide.png"))).shape == (40, 75, 3)


def test_a_benchmark_takes_the_model_for_the_size_of_its_images(invoke: Run, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((2, 44, 36, 3), np.float32)
    np.savez(tmp_path / "odd.npz", x=x, y=np.array([0, 1]))
    quick = ("--preset", "fast", "--attack-steps", "2", "--eps", "4/255", "--reevaluations", "1")
    classifier = ("--classifier", "tests.toys:quadrant_classifier")
    for access in ("transfer", "bpda", "white-box", "surrogate"):
        run = invoke(
            "benchmark", "--dataset", "odd.npz", "--out", access, "--attack", f"pgd@{access}", *classifier, *quick
        )
        assert run.returncode == 0, run.stderr
    settings = json.loads((tmp_path / "white-box/benchmark.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["model"], settings["purify"]["method"]) == ("photo-unet", "denoise")
    attack = ("--attack", "pgd@transfer", "--attack-steps", "2")
    run = invoke("attack", "odd.npz", "--out", "attacked", "--quiet", *attack, *classifier)
    assert run.returncode == 0, run.stderr
    written = run.stdout.splitlines()
    assert len(written) == 2
    assert all(pixels(tmp_path / name).shape == (44, 36, 3) for name in written)
