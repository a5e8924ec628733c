"""A repository of the Hugging Face hub: a consistency model of diffusers or a classifier of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.models.formats import diffusers_folder, hf_classifier
from cmap_cli.models.formats.layout import Converted

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact


def read(path: Path, artefact: Artefact) -> Converted:
    """The folder with a repository's files; what is in it decides what it is (WeightsError)."""
    if (path / hf_classifier.PREPROCESSOR).is_file():
        return hf_classifier.read_classifier_folder(path)
    return diffusers_folder.read_diffusers_folder(path)
