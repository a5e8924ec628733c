"""Our own file format: one safetensors file with the tensors of a network and its description in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.errors import WeightsError
from cmap_cli.files import write_with
from cmap_cli.models.networks import FAMILIES
from cmap_cli.models.networks.state import Stored, check_values
from cmap_cli.runs.documents import decode_json

MODEL_FILE = "model.safetensors"
MODEL_FORMAT = "cmap-consistency-model/1"
WEIGHTS_FORMAT = "cmap-weights/1"
HINT = "give the name of a model, or a folder written by cmap train"


def save_model(model: Stored, path: Path) -> None:
    """Write a model as one safetensors file: float16 weights and directions, float32 mean and deviations.

    Raises:
        OutOfSpaceError: the disk is full.
        CmapError: the file cannot be written for another reason.
    """
    metadata = {"format": MODEL_FORMAT, "model": json.dumps(model.description(), sort_keys=True)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.tensors().items()}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata))


def read_model(path: Path) -> nn.Module:
    """Read a model's safetensors file, ours or a converted one; it is frozen, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is missing or damaged, is of another format, or its values are not those of a model.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != MODEL_FORMAT:
        raise WeightsError(
            f"{path} is not a model of cmap: its format is {metadata.get('format')!r}, not {MODEL_FORMAT!r}", HINT
        )
    description = read_description(path, metadata)
    try:
        check_values(tensors)
        return frozen(build_model(description, {key: value.float() for key, value in tensors.items()}))
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error.message}", error.hint or HINT) from error


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file (WeightsError if it cannot be read)."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {}), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error


def read_description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata's entry ``model`` describes, a JSON object with the text ``kind`` (WeightsError)."""
    described: dict[str, Any] = decode_json(
        metadata.get("model", ""), dict[str, Any], f"the description in {path}", WeightsError
    )
    if not isinstance(described.get("kind"), str):
        raise WeightsError(f"the description in {path} does not name the kind of its network", HINT)
    return described


def build_model(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """A model from its description and its float32 tensors (WeightsError if they do not fit)."""
    kind = description.get("kind")
    for family in FAMILIES:
        if kind == family.KIND:
            return family.restore(description, tensors)
    known = ", ".join(family.KIND for family in FAMILIES)
    raise WeightsError(f"no network is of the kind {str(kind)[:40]!r}", f"this version of cmap knows {known}")


def frozen(model: nn.Module) -> nn.Module:
    """The model as purification needs it: no gradients of weights, convolutions in channels-last layout."""
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)
