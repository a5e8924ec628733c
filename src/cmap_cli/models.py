"""Consistency models on disk: the bundled ones and the folders that ``cmap train`` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cmap_cli.choices import DEFAULT_MODEL
from cmap_cli.errors import WeightsError
from cmap_cli.nets.gaussian import GaussianConsistency
from cmap_cli.nets.unet import UNetConsistency
from cmap_cli.weights import find_artefact, installed_file, sha256

FORMAT = "cmap-consistency-model/1"
MODEL_FILE = "model.safetensors"

Model = GaussianConsistency | UNetConsistency


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and what identifies it: the name the user gave and the SHA-256 of its file."""

    name: str
    sha256: str
    model: Model


def save_model(model: Model, path: Path) -> None:
    """Write a model as one safetensors file: float16 weights and directions, float32 mean and deviations.

    The file is written under a temporary name and renamed.
    """
    base = model.base if isinstance(model, UNetConsistency) else model
    tensors: dict[str, Tensor] = {
        "mean": base.mean,
        "directions": base.directions.half(),
        "stds": base.stds,
    }
    description: dict[str, object] = {
        "kind": "gaussian",
        "residual": base.residual,
        "sigma_min": base.sigma_min,
        "sigma_max": base.sigma_max,
    }
    if isinstance(model, UNetConsistency):
        description |= {"kind": "unet", "widths": list(model.widths)}
        tensors |= {f"backbone.{k}": v.half() for k, v in model.backbone.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    metadata = {"format": FORMAT, "model": json.dumps(description, sort_keys=True)}
    temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))
    temporary.replace(path)


def read_model(path: Path) -> Model:
    """Read a file of :func:`save_model`; the model is frozen, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is missing, is no safetensors file, or is not of this format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the model {path} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is not a model of cmap: its format is {metadata.get('format')!r}, not {FORMAT!r}",
            "give the name of a bundled model or a folder written by cmap train",
        )
    description = json.loads(metadata["model"])
    base = GaussianConsistency(
        tensors.pop("mean"),
        tensors.pop("directions"),
        tensors.pop("stds"),
        residual=description["residual"],
        sigma_min=description["sigma_min"],
        sigma_max=description["sigma_max"],
    )
    model: Model = base
    if description["kind"] == "unet":
        model = UNetConsistency(base, description["widths"])
        model.backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in tensors.items()})
    return model.requires_grad_(False).eval()


def load_model(name: str = DEFAULT_MODEL, device: torch.device | str = "cpu") -> Model:
    """A frozen consistency model by the name of a bundled one or by the folder ``cmap train`` wrote.

    Raises:
        WeightsError: there is none of that name, or its file is not what it should be.
    """
    return load_identified_model(name, device).model


def load_identified_model(name: str = DEFAULT_MODEL, device: torch.device | str = "cpu") -> LoadedModel:
    """As :func:`load_model`, with the hash of the file."""
    path = find_model_file(name)
    return LoadedModel(name, sha256(path), read_model(path).to(device))


def find_model_file(name: str) -> Path:
    """The model file that ``name`` stands for (WeightsError if there is none)."""
    folder = Path(name)
    if folder.is_dir():
        path = folder / MODEL_FILE
        if not path.is_file():
            raise WeightsError(f"the folder {name} holds no {MODEL_FILE}", f"cmap train IMAGES --out {name} makes one")
        return path
    if "/" in name or "\\" in name:
        raise WeightsError(f"the model folder {name} does not exist", f"cmap train IMAGES --out {name} makes one")
    return installed_file(find_artefact(name, "consistency-model"))
