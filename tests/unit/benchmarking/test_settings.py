"""What a run that resumes must share with the one before: every setting but those that do not change results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmap_cli.benchmarking import loading, setup
from cmap_cli.benchmarking.settings import UNCOMPARED, AnySettings, AttackSettings, BenchmarkSettings
from cmap_cli.benchmarking.setup import PreparedBenchmark, prepare_benchmark
from cmap_cli.core.similarity import SSIM
from cmap_cli.errors import SettingsMismatchError, UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.store import save_model
from cmap_cli.runs.settings import claim_settings

OTHER: dict[str, Any] = {
    "split": "test",
    "n": 3,
    "attack": "fgsm",
    "access": "bpda",
    "norm": "L2",
    "eps": "0.1",
    "attack_steps": 3,
    "restarts": 2,
    "eot": 2,
    "queries": 7,
    "disruption_steps": 50,
    "adv_factor": 10.0,
    "unroll": "1",
    "smoothing": 0.1,
    "sigma": 0.5,
    "samples": 7,
    "defense": "jpeg",
    "classifier": "tests.toys:brightness_classifier",
    "normalisation": "half",
    "preset": "fast",
    "method": "denoise",
    "steps": 4,
    "num_latents": 4,
    "denoise_level": 0.3,
    "perceptual": "both",
    "lpips_trunk": "alex",
    "vote": "hard",
    "seed": 1,
    "device": "auto",
    "precision": "bf16",
    "batch_size": 2,
    "chunk": 1,
    "protocol": "paper",
    "reevaluations": 2,
    "control_images": 1,
    "cascade": False,
}
"""Another value of every field; model, labels and weights_dir are paths that the test makes."""


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images, and other values of the fields that are paths."""
    folder = tmp_path_factory.mktemp("settings")
    x = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(4) % 2, x_test=x, y_test=np.arange(4) % 2)
    save_model(
        GaussianConsistency(torch.zeros(3, 8, 8), torch.eye(192)[:9], torch.ones(9)), folder / "m" / "model.safetensors"
    )
    return {"data": folder / "data.npz", "model": folder / "m", "weights_dir": folder}


@pytest.fixture(autouse=True)
def lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of LPIPS are not there."""
    monkeypatch.setattr(setup, "load_similarity", lambda *_: SSIM())


def base(kind: type[AnySettings], paths: dict[str, Path]) -> AnySettings:
    return kind(
        model="tests.toys:DenoisingGaussian",
        classifier="tests.toys:quadrant_classifier",
        attack=("pgd", "apgd-ce") if kind is BenchmarkSettings else "pgd",  # two with one access make a cascade
        access="surrogate",
        defense=("cmap", "smoothed"),
        n=4,
        num_latents=2,
        eps="0.2",
        device="cpu",
        precision="fp32",
        perceptual="lpips",
    )


def prepared(paths: dict[str, Path], settings: AnySettings) -> PreparedBenchmark:
    return prepare_benchmark([str(paths["data"])], settings)[0]


@pytest.mark.parametrize("kind", [BenchmarkSettings, AttackSettings])
def test_every_field_is_compared_or_on_the_list(
    kind: type[AnySettings], paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, device: torch.device, *, normalisation: str | None, **options: Any) -> LoadedClassifier:
        return load_classifier(name, device, **options)  # only files have a normalisation

    monkeypatch.setattr(loading, "load_classifier", load)
    before = base(kind, paths)
    others = {**OTHER, "model": str(paths["model"]), "weights_dir": paths["weights_dir"]}
    fields = {field.name for field in dataclasses.fields(kind)} - {"labels"}  # which arrays do not take: next test
    assert fields <= others.keys(), "a new option needs another value here"
    claim_settings(tmp_path / "benchmark.json", {"settings": prepared(paths, before).settings})
    for name in sorted(fields):
        after = prepared(paths, dataclasses.replace(before, **{name: others[name]})).settings
        if name in UNCOMPARED:
            assert claim_settings(tmp_path / "benchmark.json", {"settings": after}), name
            continue
        with pytest.raises(SettingsMismatchError, match=r"was .* and is now"):
            assert not claim_settings(tmp_path / "benchmark.json", {"settings": after}), name


def test_other_labels_are_other_settings(images: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for label in (0, 1):
        (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"in/{n}.png,{label}\n" for n in "abc"))
        settings = dataclasses.replace(base(BenchmarkSettings, paths), labels=tmp_path / "labels.csv", n=None)
        found.append(prepare_benchmark([str(images / "[abc].png")], settings)[0].settings)
    assert {key for key in found[0] if found[0][key] != found[1][key]} == {"labels"}


def test_options_that_can_be_repeated_take_one_value_or_several() -> None:
    assert BenchmarkSettings(attack="pgd").attack == ("pgd",)
    assert BenchmarkSettings(defense=["cmap", "none"]).defense == ("cmap", "none")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        dataclasses.replace(BenchmarkSettings(), attacks="pgd")


@pytest.mark.parametrize("kind", [BenchmarkSettings, AttackSettings])
@pytest.mark.parametrize("name", ["preset", "vote", "precision", "split"])
def test_unknown_values_are_refused_with_the_known_ones(kind: type[AnySettings], name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is 'foo'") as raised:
        setup.parse_settings(kind(attack=("pgd",), **{name: "foo"}))
    assert "choose one of" in raised.value.hint
