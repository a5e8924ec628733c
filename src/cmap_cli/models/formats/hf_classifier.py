"""Image classifiers of Hugging Face's transformers: a folder with config, preprocessing and safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.networks.state import check_shapes

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
LAYERS = re.compile("layer|depth|block|stage|repeat|num_.*heads")
"""Names of numbers in a configuration that count layers, blocks or heads."""
FEW = 64
LARGEST = 1 << 20
"""Largest other whole number in a configuration; a file with a larger one is damaged or hostile."""


def read_classifier_folder(folder: Path) -> Converted:
    """A classifier's folder as it lies in a repository.

    Raises:
        WeightsError: a file is missing, or the preprocessing does not contain how images are normalised and resized.
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


def build_network(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a configuration with these weights, and the names of its classes; no code of a repository runs.

    The numbers in the configuration are compared with the tensors before memory is allocated.

    Raises:
        WeightsError: they do not belong together.
        ModuleNotFoundError: transformers is not installed.
        Exception: whatever transformers raises for a configuration that fits nothing.
    """
    transformers = import_module("transformers")
    refuse_claims(config, max(FEW, len(tensors)))
    given = dict(config)
    known = transformers.AutoConfig.for_model(given.pop("model_type"), **given)
    make = transformers.AutoModelForImageClassification.from_config
    with torch.device("meta"):
        check_shapes(tensors, {key: tuple(value.shape) for key, value in make(known).state_dict().items()})
    network: nn.Module = make(known)
    network.load_state_dict(dict(tensors))
    labels = {int(index): str(label) for index, label in known.id2label.items()}
    return network, tuple(labels[index] for index in range(len(labels)))


def refuse_claims(config: Mapping[str, Any], most: int) -> None:
    """Refuse numbers of layers that the file has no tensors for, and sizes that no network has (WeightsError).

    Args:
        config: the content of config.json.
        most: layers, and entries of a list.
    """
    pending: list[tuple[str, Any]] = [("", dict(config))]
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((str(key), inner) for key, inner in value.items() if key not in ("id2label", "label2id"))
        elif isinstance(value, list):
            if len(value) > most:
                raise WeightsError(f"the configuration has {len(value)} entries in {name[:40]}")
            pending.extend((name, inner) for inner in value)
        elif isinstance(value, int) and abs(value) > (most if LAYERS.search(name) else LARGEST):
            raise WeightsError(f"the configuration's {name[:40]} is {str(value)[:40]}, which is too much for its file")
