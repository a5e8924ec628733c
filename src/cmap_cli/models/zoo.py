"""Consistency models by name: bundled, downloaded, trained, or the folder, file or function of another project."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmap_cli.choices import AUTO_MODEL, PHOTO_MODEL, SMALL_MODEL
from cmap_cli.core.types import ConsistencyModel
from cmap_cli.errors import WeightsError
from cmap_cli.models.consistency_check import DECLARED, check_consistency_model
from cmap_cli.models.factories import call_factory
from cmap_cli.models.formats import diffusers_folder
from cmap_cli.models.formats.programs import DECLARATION, load_program
from cmap_cli.models.store import MODEL_FILE, build_model, frozen, read_model
from cmap_cli.models.weights.cache import local_file, sha256
from cmap_cli.models.weights.libraries import artefact_of
from cmap_cli.models.weights.manifest import read_manifest

SMALL_SHAPE = (3, 32, 32)


def model_for(image_shape: tuple[int, int, int] | None) -> str:
    """The model that "auto" means for images of a shape (C, H, W), None for several."""
    return SMALL_MODEL if image_shape == SMALL_SHAPE else PHOTO_MODEL


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its name and the SHA-256 of its weights.

    Attributes:
        name: as the user gave it.
        sha256: of its file; of its weights if a function made it.
        model: frozen, on its device.
    """

    name: str
    sha256: str
    model: ConsistencyModel


def load_model(
    name: str = SMALL_MODEL, device: torch.device | str = "cpu", weights_dir: Path | None = None
) -> ConsistencyModel:
    """Load a consistency model by name.

    Args:
        name: one of

            - a name that ``cmap list models`` prints, bundled or downloaded; it takes precedence over a folder of that
              name;
            - a folder that ``cmap train`` wrote, or the folder of a diffusers consistency model;
            - ``hf:org/repo``, after ``cmap download-weights hf:org/repo``;
            - a TorchScript or torch.export file;
            - ``package.module:factory``, a function without arguments that returns a
              :class:`~cmap_cli.core.types.ConsistencyModel`. This alone runs Python that is not part of cmap.
        device: where to put the model.
        weights_dir: where downloaded weights are; by default CMAP_WEIGHTS_DIR, else the user's cache.

    Returns:
        The model, in evaluation mode, without gradients of its weights. It takes images in [-1, 1] plus noise,
        (N, C, H, W), and noise levels, (N,).

    Raises:
        WeightsError: no model has that name, its file is damaged, or it is not a consistency model.
        UsageError: the function cannot be imported or raises an exception.
    """
    return load_identified_model(name, device, weights_dir).model


def load_identified_model(
    name: str = SMALL_MODEL, device: torch.device | str = "cpu", weights_dir: Path | None = None
) -> LoadedModel:
    """As :func:`load_model`, with the SHA-256 that identifies its weights."""
    if name == AUTO_MODEL:
        raise WeightsError(
            f"{AUTO_MODEL} is a choice among models by the size of each picture, not a model",
            f"name one: {SMALL_MODEL} or {PHOTO_MODEL}",
        )
    known = read_manifest().get(name)
    if known is not None and known.kind == "consistency-model":  # even where a folder is called so
        return model_from_file(name, local_file(known, weights_dir), device)
    path = Path(name)
    if path.is_dir():
        if (path / MODEL_FILE).is_file():
            return model_from_file(name, path / MODEL_FILE, device)
        return from_diffusers_folder(name, path, device)
    if path.is_file():
        if path.suffix == ".safetensors":
            return model_from_file(name, path, device)
        return from_program(name, path, device)
    library, _, rest = name.partition(":")
    if library == "hf" or not (rest or "/" in name or "\\" in name):
        file = local_file(artefact_of(name, "consistency-model"), weights_dir)
        loaded = model_from_file(name, file, device)
        if library == "hf":
            check_consistency_model(name, loaded.model, device)
        return loaded
    if rest and "/" not in name:
        return from_factory(name, device)
    raise WeightsError(f"the model {name} does not exist", f"cmap train IMAGES --out {name} makes one")


def model_from_file(name: str, path: Path, device: torch.device | str) -> LoadedModel:
    """A safetensors file that cmap wrote."""
    model = read_model(path).to(device)
    return LoadedModel(name, sha256(path), model)  # type: ignore[arg-type]  # what build_model makes is one


def from_diffusers_folder(name: str, folder: Path, device: torch.device | str) -> LoadedModel:
    """The consistency model of a folder of diffusers."""
    if not (diffusers_folder.unet_folder(folder) / diffusers_folder.CONFIG).is_file():
        raise WeightsError(
            f"the folder {name} holds no {MODEL_FILE} and is no diffusers consistency model",
            f"cmap train IMAGES --out {name} makes one",
        )
    refused = {each.sha256: each.reason for artefact in read_manifest().values() for each in artefact.refused}
    converted = diffusers_folder.read_diffusers_folder(folder, refused)
    model = frozen(build_model(converted.description, converted.tensors)).to(device)
    check_consistency_model(name, model, device)
    return LoadedModel(name, diffusers_folder.weights_sha256(folder), model)  # type: ignore[arg-type]  # checked


class ProgramConsistency(nn.Module):
    """A TorchScript or torch.export network f(x, t) with the noise levels and image size that its file declares."""

    def __init__(
        self, network: nn.Module, sigma_min: float, sigma_max: float, image_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.network = network
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.image_shape = image_shape

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, t): (N, C, H, W) and (N,) -> (N, C, H, W)."""
        images: Tensor = self.network(x, sigma)
        return images


def from_program(name: str, path: Path, device: torch.device | str) -> LoadedModel:
    """A TorchScript or torch.export file."""
    program = load_program(path, device)
    sigma_min, sigma_max, image_shape = declared_levels(name, program.declared)
    model = ProgramConsistency(program.module, sigma_min, sigma_max, image_shape).requires_grad_(False)
    check_consistency_model(name, model, device)
    return LoadedModel(name, sha256(path), model)


def declared_levels(name: str, declared: Mapping[str, Any]) -> tuple[float, float, tuple[int, int, int]]:
    """sigma_min, sigma_max and (C, H, W) of a program's declaration (WeightsError if it lacks one of them)."""
    try:
        channels, height, width = map(int, declared["image_shape"])
        return float(declared["sigma_min"]), float(declared["sigma_max"]), (channels, height, width)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"{name} does not declare {', '.join(DECLARED)}",
            f'save it with the extra file {DECLARATION}: {{"sigma_min": 0.002, "sigma_max": 80, '
            '"image_shape": [3, 32, 32]}',
        ) from error


def from_factory(name: str, device: torch.device | str) -> LoadedModel:
    """The consistency model that a user's function returns."""
    model: Any = call_factory(name, "a consistency model")
    digest = hashlib.sha256(name.encode())
    if isinstance(model, nn.Module):
        model.to(device).requires_grad_(False).eval()
        for key, tensor in model.state_dict().items():
            digest.update(
                key.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    check_consistency_model(name, model, device)
    return LoadedModel(name, digest.hexdigest(), model)
