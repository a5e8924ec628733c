"""Adapting a classifier to denoised noisy images: batches, loss, resuming, the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cmap_cli.errors import SettingsMismatchError, UsageError, WeightsError
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.networks.cifar_resnet import CifarResNet
from cmap_cli.models.stored_classifier import CLASSIFIER_FILE
from cmap_cli.training.adapt_loop import LabelledImages, agreement_loss, kept_layers, noisy_batch
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.results import TrainProgress
from cmap_cli.training.run import train
from cmap_cli.training.settings import TrainSettings
from tests.toys import DenoisingGaussian, write_base

TOY = "tests.unit.training.test_adaptation:denoiser"
SETTINGS = TrainSettings(
    kind="classifier", classifier="base", model=TOY, images_seen=48,
    batch_size=8, sigma=(0.1, 0.3), lr=0.05, device="cpu", precision="fp32",
)  # fmt: skip


def denoiser() -> DenoisingGaussian:
    return DenoisingGaussian(image_shape=(3, 16, 16))


def other() -> DenoisingGaussian:
    return DenoisingGaussian(mu=0.1, image_shape=(3, 16, 16))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the classifier ``base`` and with images of three brightnesses, one for each class."""
    monkeypatch.chdir(tmp_path)
    write_base(tmp_path / "base", 16)
    y = np.arange(60) % 3
    x = (np.random.RandomState(0).randint(0, 40, (60, 16, 16, 3)) + 80 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    return tmp_path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / CLASSIFIER_FILE, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def test_a_batch_is_a_function_of_seed_and_iteration() -> None:
    images = LabelledImages(torch.randint(0, 256, (9, 3, 16, 16), dtype=torch.uint8), torch.arange(9))
    config = AdaptationConfig(batch_size=200, sigmas=(0.1, 0.4))
    x, sigma, y = noisy_batch(images, config, 3)
    again = noisy_batch(images, config, 3)
    assert all(torch.equal(one, other) for one, other in zip((x, sigma, y), again, strict=True))
    assert not torch.equal(x, noisy_batch(images, config, 4)[0])
    assert (x.shape, y.shape) == ((200, 3, 16, 16), (100,))
    assert torch.equal(sigma[:100], sigma[100:])
    for level in (0.1, 0.4):  # the difference of two samples has twice their variance
        difference = (x[:100] - x[100:])[sigma[:100] == level]
        assert float(difference.std()) == pytest.approx(level * 2**0.5, rel=0.02)


def test_the_loss_is_cross_entropy_where_both_samples_agree() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1])
    same = torch.cat([logits, logits])
    plain = torch.nn.functional.cross_entropy(logits, labels)
    assert float(agreement_loss(same, labels, 5.0)) == pytest.approx(float(plain), abs=1e-6)
    opposed = torch.cat([logits, -logits])
    assert float(agreement_loss(opposed, labels, 5.0)) > float(agreement_loss(opposed, labels, 0.0)) + 1


def test_the_first_layers_are_kept_up_to_a_share_of_the_weights() -> None:
    network = CifarResNet(20, 10)
    names = [name for name, _ in network.named_children()]
    assert kept_layers(network, 0.0) == frozenset()
    assert kept_layers(network, 1.0) == frozenset(names)
    assert kept_layers(network, 0.1) == frozenset(names[: len(kept_layers(network, 0.1))])


def test_an_interrupted_run_ends_as_an_uninterrupted_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("data.npz", "whole", SETTINGS)
    assert (whole.path, whole.document.images, whole.document.image_shape) == (
        Path("whole") / CLASSIFIER_FILE, 60, (3, 16, 16),
    )  # fmt: skip

    def stop(progress: TrainProgress) -> None:
        if progress.unit == "iterations" and progress.done == 5:
            raise KeyboardInterrupt

    recipe = dataclasses.replace(AdaptationConfig(), checkpoint_every=2)
    monkeypatch.setattr("cmap_cli.training.plan.AdaptationConfig", lambda: recipe)
    with pytest.raises(KeyboardInterrupt):
        train("data.npz", "cut", SETTINGS, on_progress=stop)
    train("data.npz", "cut", SETTINGS)
    before, after = weights(here / "whole"), weights(here / "cut")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    base = weights(here / "base")
    assert any(not torch.equal(before[key], base[key]) for key in base)


def test_adaptation_raises_accuracy_and_the_card_lists_it(here: Path) -> None:
    done = train("data.npz", "adapted", SETTINGS, images_seen=400)
    card = (here / "adapted" / "README.md").read_text()
    found = card.partition("by sigma: ")[2].partition("\n")[0]
    accuracy = json.loads(found)
    assert sum(accuracy["after"].values()) > sum(accuracy["before"].values())
    assert "adapted on denoised training images" in card
    loaded = load_classifier("adapted", image_size=(16, 16))
    assert loaded.name == "adapted (classifier adapted on denoised training images)"
    assert (loaded.classes, loaded.num_classes) == (tuple("abcdefghij"), 10)
    assert loaded.description is not None
    adapted = loaded.description.adapted
    assert adapted is not None
    assert (adapted.base, adapted.dataset, adapted.split, adapted.images) == ("base", "data.npz", "train", 400)
    assert adapted.sigma == (0.1, 0.3)
    x = torch.rand(2, 3, 16, 16)
    assert torch.allclose(loaded.module(x), done.model(x), atol=0.05)  # type: ignore[operator]


def test_classifiers_and_settings_that_cannot_be_used_are_refused(here: Path) -> None:
    for changes, text in (
        ({"classifier": "tests.toys:brightness_classifier"}, "cannot be trained"),
        ({"sigma": (0.0,)}, "--sigma 0 is not above 0"),
        ({"batch_size": 7}, "--batch-size 7 is odd"),
        ({"model": "cifar10-gaussian"}, "16×16 pixels and cifar10-gaussian makes 32×32"),
        ({"image_size": 8}, "--image-size has no meaning for --kind classifier"),
    ):
        with pytest.raises(UsageError, match=text):
            train("data.npz", "out", SETTINGS, **changes)
    with pytest.raises(UsageError, match="needs one data set, and 2 are given"):
        train(["data.npz", "data.npz"], "out", SETTINGS)
    np.save("plain.npy", np.zeros((4, 16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="has no labels"):
        train("plain.npy", "out", SETTINGS)
    with pytest.raises(UsageError, match="--sigma has no meaning for --kind gaussian"):
        train("data.npz:x_train", "out", kind="gaussian", sigma=(0.25,))


def test_another_recipe_does_not_continue_a_run(here: Path) -> None:
    train("data.npz", "out", SETTINGS)
    for changes, name in (({"sigma": (0.2,)}, "sigma"), ({"model": TOY.replace("denoiser", "other")}, "model")):
        with pytest.raises(SettingsMismatchError, match=name):
            train("data.npz", "out", SETTINGS, **changes)
    write_base(here / "another", 16)
    with pytest.raises(SettingsMismatchError, match="base was 'base' and is now 'another'"):
        train("data.npz", "out", SETTINGS, classifier="another")
    (here / "out" / "checkpoint.safetensors").unlink()
    with pytest.raises(UsageError, match="holds a classifier already"):
        train("data.npz", "out", SETTINGS)


def test_a_damaged_file_is_named(here: Path) -> None:
    path = here / "base" / CLASSIFIER_FILE
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_classifier("base")
    with pytest.raises(UsageError, match=r"the classifier none.safetensors does not exist"):
        load_classifier("none.safetensors")
