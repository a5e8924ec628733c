"""The preprocessor for ART."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from cmap_cli import ArtPreprocessor
from cmap_cli.errors import UsageError
from tests.toys import BrightnessClassifier, IsotropicGaussian

QUICK: dict[str, Any] = {"preset": "fast", "steps": 2, "num_latents": 2, "device": "cpu", "precision": "fp32"}


def test_arrays_keep_layout_range_and_type() -> None:
    x = np.random.RandomState(0).rand(2, 3, 8, 8).astype(np.float32)
    first = ArtPreprocessor(model=IsotropicGaussian(), **QUICK)
    purified, y = first(x, [1, 2])
    assert (purified.shape, purified.dtype, y) == (x.shape, x.dtype, [1, 2])
    assert not np.allclose(purified, x, atol=1e-3)
    last = ArtPreprocessor(model=IsotropicGaussian(), channels_first=False, clip_values=(0, 2), **QUICK)
    scaled, _ = last(np.moveaxis(x, 1, -1) * 2)
    np.testing.assert_allclose(np.moveaxis(scaled, -1, 1) / 2, purified, atol=1e-6)


def test_the_gradient_is_the_identity() -> None:
    defence = ArtPreprocessor(model=IsotropicGaussian(), **QUICK)
    x, gradient = np.random.RandomState(0).rand(2, 1, 3, 8, 8).astype(np.float32)
    np.testing.assert_array_equal(defence.estimate_gradient(x, gradient), gradient)
    defence.fit(x)
    assert (defence.apply_fit, defence.apply_predict) == (False, True)


def test_clip_values_are_checked() -> None:
    with pytest.raises(UsageError, match="clip_values"):
        ArtPreprocessor(clip_values=(1, 0))


@pytest.mark.filterwarnings("ignore")
def test_art_attacks_through_it() -> None:
    attacks = pytest.importorskip("art.attacks.evasion", exc_type=ImportError)
    estimators = pytest.importorskip("art.estimators.classification", exc_type=ImportError)
    defence = ArtPreprocessor(model=IsotropicGaussian(), **QUICK)
    classifier = estimators.PyTorchClassifier(
        BrightnessClassifier(),
        loss=nn.CrossEntropyLoss(),
        input_shape=(3, 8, 8),
        nb_classes=2,
        clip_values=(0, 1),
        preprocessing_defences=[defence],
        device_type="cpu",
    )
    x = np.full((1, 3, 8, 8), 0.8, np.float32)
    assert classifier.predict(x).argmax() == 1
    attacked = attacks.FastGradientMethod(classifier, eps=0.6).generate(x)
    assert classifier.predict(attacked).argmax() == 0
