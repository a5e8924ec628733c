"""The Adversarial Robustness Toolbox certifies the same modules: its radii and ours agree within the bounds."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmap_cli.benchmarking.certificates.bounds import certified_radius, clopper_pearson_upper
from cmap_cli.benchmarking.certificates.procedure import Plan, Tally
from cmap_cli.defenses.smoothing import NoisyClassifier, classify_blocks, noise_key, noisy_samples
from tests.toys import BrightnessClassifier, DenoisingGaussian

SIGMA, SELECTION, SAMPLES, ALPHA = 0.5, 100, 2000, 0.001
OFFSETS = (-0.04, -0.02, 0.005, 0.02, 0.04)


class AtOneLevel(nn.Module):
    """The classifier of noisy images for one noise level, as ART calls it."""

    def __init__(self, classifier: NoisyClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x, torch.full((len(x),), SIGMA))
        return logits


def ours(classifier: NoisyClassifier, image: Tensor) -> Tally:
    tally = Tally(Plan("cohen", SELECTION, SAMPLES, ALPHA, ()), SIGMA)
    key = noise_key(image, SIGMA, 0)
    while wanted := tally.wanted():
        noisy = noisy_samples(image, SIGMA, key, range(tally.taken, tally.taken + wanted))
        tally.observe(classify_blocks(classifier, noisy, torch.full((wanted,), SIGMA), torch.device("cpu")))
    return tally


def theirs(classifier: NoisyClassifier, images: Tensor) -> tuple[list[int], list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ART's own imports
        smoothing = pytest.importorskip("art.estimators.certification.randomized_smoothing")
        model = smoothing.PyTorchRandomizedSmoothing(
            AtOneLevel(classifier), nn.CrossEntropyLoss(), tuple(images.shape[1:]), 2, device_type="cpu",
            sample_size=SELECTION, scale=SIGMA, alpha=ALPHA,
        )  # fmt: skip
        state = np.random.get_state()
        np.random.seed(0)
        try:
            predicted, radii = model.certify(images.numpy(), n=SAMPLES, batch_size=500)
        finally:
            np.random.set_state(state)
    return [int(each) for each in predicted], [float(each) for each in radii]


def test_radii_agree_within_the_bounds() -> None:
    classifier = NoisyClassifier(DenoisingGaussian(), BrightnessClassifier())
    images = torch.stack([torch.full((3, 8, 8), 0.5 + offset) for offset in OFFSETS])
    predicted, radii = theirs(classifier, images)
    for image, offset, label, radius in zip(images, OFFSETS, predicted, radii, strict=True):
        tally = ours(classifier, image)
        exact = abs(offset) * math.sqrt(image.numel())
        assert max(tally.radius, radius) <= exact + 1e-6
        if abs(offset) > 0.01:
            assert tally.predicted == label == int(offset > 0)
            most = certified_radius(clopper_pearson_upper(tally.successes, tally.trials, ALPHA), SIGMA)
            assert radius <= most
            assert abs(radius - tally.radius) <= most - tally.radius
