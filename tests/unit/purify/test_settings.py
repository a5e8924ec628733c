"""What a resumed run must share is derived from the settings."""

from __future__ import annotations

import dataclasses
from math import nan
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cmap_cli import PurifySettings, purify_folder
from cmap_cli.core.similarity import SSIM
from cmap_cli.errors import SettingsMismatchError, UsageError
from cmap_cli.models.classifiers import LoadedClassifier
from cmap_cli.purify import prepare
from cmap_cli.purify.settings import NO_EFFECT
from tests.toys import BrightnessClassifier

OTHER: dict[str, Any] = {
    "preset": "paper",
    "method": "denoise",
    "steps": 2,
    "num_latents": 3,
    "denoise_level": 0.3,
    "select": "best",
    "classifier": "./another",
    "normalisation": "half",
    "vote": "hard",
    "perceptual": "both",
    "lpips_trunk": "alex",
    "class_label": "1",
    "fit": "crop",
    "max_tiles": 63,
    "seed": 1,
    "device": "cpu",
    "precision": "bf16",
    "format": "webp",
    "batch_size": 2,
}
"""Another value for every field but the paths."""


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> PurifySettings:
    """Settings that every field has a part in; what would need weights or classes is replaced."""

    def classifier(name: str, *_: object, **__: object) -> LoadedClassifier:
        module: nn.Module = BrightnessClassifier()
        return LoadedClassifier(name, module, 2)

    monkeypatch.setattr(prepare, "load_classifier", classifier)
    monkeypatch.setattr(prepare, "load_similarity", lambda *_: SSIM())
    monkeypatch.setattr(prepare, "common_class", lambda *_: None)
    return PurifySettings(
        model="tests.toys:DenoisingGaussian",
        preset="fast",
        classifier="./a",
        perceptual="lpips",
        precision="fp32",
        batch_size=1,
    )


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PurifySettings)])
def test_a_resume_with_another_value_is_refused_or_the_field_is_listed(
    name: str, settings: PurifySettings, images: Path, small_model: Path, tmp_path: Path
) -> None:
    value = {"model": str(small_model), "weights_dir": tmp_path}.get(name, OTHER.get(name))
    changed = dataclasses.replace(settings, **{name: value})
    assert changed != settings
    done = purify_folder(images / "a.png", tmp_path / "out", settings)
    assert (done.written, done.exit_code) == (1, 0)
    if name in NO_EFFECT:
        again = purify_folder(images / "a.png", tmp_path / "out", changed)
        assert (again.written, again.already_there) == (0, 1)
    else:
        with pytest.raises(SettingsMismatchError, match="is now"):
            purify_folder(images / "a.png", tmp_path / "out", changed)


def test_bad_values_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        purify_folder(
            "gone.png", tmp_path / "out", preset="quick", steps=0, select="vote", method="guess", denoise_level=nan
        )
    messages = [str(problem) for problem in caught.value.problems]
    assert messages[0] == "preset is 'quick'"
    assert "steps is 0" in messages
    assert "method is 'guess'" in messages
    assert "denoise_level is nan" in messages
    assert "--select vote needs a classifier" in messages
    assert "'gone.png' cannot be found" in messages


def test_an_unknown_option_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        purify_folder("gone.png", tmp_path / "out", colour="red")
