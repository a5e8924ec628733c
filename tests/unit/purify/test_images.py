"""Images in memory: what comes in comes back."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cmap_cli import Purify, purify_folder, purify_images
from cmap_cli.errors import UsageError
from tests.toys import BrightnessClassifier, IsotropicGaussian

QUICK: dict[str, Any] = {"preset": "fast", "steps": 2, "num_latents": 2, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def purify() -> Purify:
    """A transform with a model of 8×8 images."""
    return Purify(model=IsotropicGaussian(), **QUICK)


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pictures_come_back_as_pictures(purify: Purify, mode: str) -> None:
    picture = Image.fromarray(pixels(12, 9, 4)).convert(mode)
    result = purify(picture)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (mode, (9, 12))
    assert result.tobytes() != picture.tobytes()
    if mode.endswith("A"):
        assert result.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (5, 8, 8, 3), (2, 10, 8, 1), (0, 8, 8, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_arrays_come_back_as_arrays(purify: Purify, shape: tuple[int, ...], dtype: str) -> None:
    array = pixels(*shape) if dtype == "uint8" else (pixels(*shape) / 255).astype(dtype)
    result = purify(array)
    assert (type(result), result.dtype, result.shape) == (np.ndarray, array.dtype, shape)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (5, 3, 8, 8), (2, 1, 8, 10), (0, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_come_back_as_tensors(purify: Purify, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.from_numpy(pixels(*shape))
    tensor = values if dtype == torch.uint8 else (values / 255).to(dtype)
    result = purify(tensor)
    assert (type(result), result.dtype, result.shape) == (torch.Tensor, dtype, shape)


def test_lists_keep_their_kinds_and_order(purify: Purify) -> None:
    given = [Image.fromarray(pixels(8, 8, 3)), pixels(20, 8, 3), torch.rand(3, 8, 8)]
    result = purify(given)
    assert [type(each) for each in result] == [Image.Image, np.ndarray, torch.Tensor]
    for one, of_list in zip(given, result, strict=True):
        np.testing.assert_allclose(np.asarray(purify(one), float), np.asarray(of_list, float), atol=1)
    assert isinstance(purify(tuple(given)), tuple)
    assert purify([]) == []


def test_images_arrays_and_tensors_give_the_same_result(purify: Purify) -> None:
    array = pixels(8, 8, 3)
    of_picture = np.asarray(purify(Image.fromarray(array)))
    np.testing.assert_array_equal(purify(array), of_picture)
    tensor = purify(torch.from_numpy(array).movedim(-1, 0).float() / 255)
    np.testing.assert_array_equal((tensor * 255).round().byte().movedim(0, -1).numpy(), of_picture)


def test_memory_and_files_agree(images: Path, small_model: Path, tmp_path: Path) -> None:
    options = QUICK | {"model": str(small_model), "batch_size": 1}
    purify_folder(images / "a.png", tmp_path / "out", **options)
    (written,) = (tmp_path / "out").rglob("*.png")
    with Image.open(images / "a.png") as before, Image.open(written) as after:
        assert purify_images(before, **options).images.tobytes() == after.tobytes()


@pytest.mark.parametrize(
    ("images", "message", "hint"),
    [
        (torch.rand(3, 8, 8) * 2 - 1, r"values from -.* not in \[0, 1\]", r"\(x \+ 1\) / 2"),
        (torch.rand(3, 8, 8) * 255, "values from", "x / 255"),
        (torch.randn(3, 8, 8) * 3, "values from", r"x \* std \+ mean"),
        (torch.full((3, 8, 8), torch.nan), "values from nan", "finite"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "type int64", "uint8"),
        (np.zeros((8, 8, 3), np.int32), "type int32", "uint8"),
        (np.zeros((8, 8, 3), np.uint16), "type uint16", "uint8"),
        (np.zeros((3, 8, 8), np.uint8), r"shape \(3, 8, 8\)", "np.moveaxis"),
        (torch.zeros(8, 8, 3), r"shape \(8, 8, 3\)", "movedim"),
        (torch.zeros(8, 8), r"shape \(8, 8\)", "PIL"),
        (Image.new("P", (8, 8)), "mode P", "convert"),
        ("photo.png", "type str", "PIL"),
        ([torch.zeros(2, 3, 8, 8)], r"images\[0\] is not a single image", "PIL"),
    ],
)
def test_values_outside_0_1_and_other_objects_are_refused_with_a_hint(
    purify: Purify, images: Any, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        purify(images)
    assert re.search(hint, caught.value.hint)


def test_predictions_and_candidates() -> None:
    given = torch.stack([torch.full((3, 8, 8), level) for level in (0.2, 0.8)])
    result = purify_images(
        given, model=IsotropicGaussian(), classifier=BrightnessClassifier(), keep_candidates=True, **QUICK
    )
    assert result.predictions is not None
    assert [(each.before, each.after, each.vote) for each in result.predictions] == [("0", "0", "0"), ("1", "1", "1")]
    assert result.candidates is not None
    assert [candidates.shape for candidates in result.candidates] == [(2, 3, 8, 8)] * 2
    assert result.logits is not None
    assert [logits.shape for logits in result.logits] == [(2, 2)] * 2
    torch.testing.assert_close(result.images, torch.stack([each.mean(0) for each in result.candidates]))
    plain = purify_images(given, model=IsotropicGaussian(), **QUICK)
    assert (plain.predictions, plain.logits, plain.candidates) == (None, None, None)


def test_progress_is_reported(purify: Purify) -> None:
    events: list[Any] = []
    purify.purify(torch.rand(3, 3, 8, 8), on_progress=events.append)
    assert [event.done for event in events if event.step is None] == [1, 2, 3]
    assert any(event.step is not None for event in events)


def test_a_transform_is_pickled_without_its_models_and_loads_them_once(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purify = Purify(model=str(small_model), **QUICK)
    assert repr(purify).startswith(f"Purify(model='{small_model}', preset='fast', steps=2")
    image = torch.rand(3, 8, 8)
    first = purify(image)
    copy = pickle.loads(pickle.dumps(purify))
    assert copy._loaded is None
    torch.testing.assert_close(copy(image), first)
    monkeypatch.setattr("cmap_cli.purify.prepare.load_identified_model", None)
    torch.testing.assert_close(purify(image), first)


def test_it_fits_into_a_pipeline_of_torchvision(purify: Purify) -> None:
    from torchvision import transforms

    pipeline = transforms.Compose([transforms.ToTensor(), purify, transforms.Normalize(0.5, 0.5)])
    assert pipeline(Image.fromarray(pixels(8, 8, 3))).shape == (3, 8, 8)


def test_a_grey_model_takes_colour(images: Path) -> None:
    grey = Purify(model=IsotropicGaussian(image_shape=(1, 8, 8)), **QUICK)
    assert grey(torch.rand(3, 8, 8)).shape == (3, 8, 8)


def test_bad_options_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UsageError, match="preset is 'quick'"):
        Purify(preset="quick")
    with pytest.raises(UsageError, match="needs a classifier"):
        Purify(select="vote")
    assert isinstance(Purify(select="vote", classifier=nn.Identity()), Purify)
