"""Image classifiers of Hugging Face's transformers: a folder with config, preprocessing and safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted, layout_sha256

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"


def read_folder(folder: Path) -> Converted:
    """A classifier's folder as it lies in a repository.

    Raises:
        WeightsError: a file is missing, or the preprocessing does not say how images are normalised and sized.
    """
    config, preprocessor = read_json(folder / CONFIG), read_json(folder / PREPROCESSOR)
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    if not architecture.endswith("ForImageClassification"):
        raise WeightsError(f"{folder} is no image classifier: its architecture is {architecture or 'not given'}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    description = {"kind": "hf-classifier", "config": config, **preprocessing(folder, preprocessor)}
    return Converted(description, tensors, layout_sha256({k: tuple(v.shape) for k, v in tensors.items()}))


def preprocessing(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Mean, deviation and size of the input as an image processor's configuration declares them."""
    mean, std = given.get("image_mean"), given.get("image_std")
    if given.get("do_normalize", True) is False:
        mean, std = [0.0] * 3, [1.0] * 3
    size = given.get("crop_size") or given.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if not (isinstance(mean, list) and isinstance(std, list) and isinstance(size, int)):
        raise WeightsError(f"{folder / PREPROCESSOR} does not declare image_mean, image_std and a size")
    return {"mean": mean, "std": std, "size": size}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object (WeightsError)."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path} is no JSON object")
    return document
