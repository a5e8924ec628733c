"""What a resumed run of ``cmap certify`` compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmap_cli.benchmarking.certificates import setup
from cmap_cli.benchmarking.certificates.settings import CertifySettings
from cmap_cli.benchmarking.certificates.setup import prepare_certify
from cmap_cli.benchmarking.settings import UNCOMPARED
from cmap_cli.errors import UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier

OTHER: dict[str, Any] = {
    "split": "test",
    "n": 3,
    "sigma": (0.5, 0.25),
    "radius": (0.1,),
    "procedure": "cohen",
    "selection": 50,
    "samples": 500,
    "alpha": 0.01,
    "denoiser": "consistency",
    "classifier": "tests.toys:brightness_classifier",
    "normalisation": "half",
    "seed": 1,
    "device": "auto",
    "precision": "bf16",
    "batch_size": 2,
}
"""Another value of every field; model, labels and weights_dir are paths that the test makes."""


def test_every_field_is_compared_or_on_the_list(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, device: Any, *, normalisation: str | None, **options: Any) -> LoadedClassifier:
        return load_classifier(name, device, **options)  # only files have a normalisation

    monkeypatch.setattr(setup, "load_classifier", load)
    x = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(4) % 2, x_test=x, y_test=np.arange(4) % 2)
    before = CertifySettings(
        model=str(small_model), classifier="tests.toys:quadrant_classifier", n=4, device="cpu", precision="fp32",
        denoiser="none",
    )  # fmt: skip
    others = OTHER | {"weights_dir": tmp_path}
    fields = {field.name for field in dataclasses.fields(CertifySettings)} - {"labels", "model"}
    assert fields <= others.keys(), "a new option needs another value here"

    def compared(**change: Any) -> dict[str, Any]:
        return prepare_certify(str(tmp_path / "data.npz"), dataclasses.replace(before, **change))[0].settings

    first = compared()
    for name in sorted(fields):
        assert (compared(**{name: others[name]}) == first) == (name in UNCOMPARED), name
    denoised = compared(denoiser="auto")
    assert denoised["model_sha256"]
    assert denoised != first


def test_unknown_values_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="procedure is 'guess'") as raised:
        prepare_certify("cifar10", CertifySettings(procedure="guess"))  # type: ignore[arg-type]
    assert "cohen, sequential" in raised.value.hint
