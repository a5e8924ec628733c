"""Consistency models by name: bundled, downloaded, trained, somebody else's folder, file or function."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cmap_cli.choices import DEFAULT_MODEL
from cmap_cli.core.types import ConsistencyModel, num_classes
from cmap_cli.errors import UsageError, WeightsError
from cmap_cli.models.factories import call_factory
from cmap_cli.models.formats import diffusers_folder, ncsnpp
from cmap_cli.models.formats.programs import DECLARATION, load_program
from cmap_cli.models.networks import adm
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.models.weights.cache import local_file, sha256
from cmap_cli.models.weights.libraries import artefact_of
from cmap_cli.models.weights.manifest import read_manifest
from cmap_cli.models.weights.obtain import MODEL_FORMAT

MODEL_FILE = "model.safetensors"
BOUNDARY_TOLERANCE = 0.01
"""Of |f(x, t_min) − x| for somebody else's model, in units of [-1, 1]; half precision stays below it."""
DECLARED = ("sigma_min", "sigma_max", "image_shape")

Model = GaussianConsistency | UNetConsistency


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model and what identifies it.

    Attributes:
        name: as the user gave it.
        sha256: of its file; of its weights where a function made it.
        model: frozen, on its device.
    """

    name: str
    sha256: str
    model: ConsistencyModel


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
        description |= {
            "kind": "unet",
            "widths": list(model.widths),
            "blocks": model.blocks,
            "preconditioning": model.preconditioning,
        }
        tensors |= {f"backbone.{k}": v.half() for k, v in model.backbone.state_dict().items()}
    temporary = path.with_suffix(".tmp")
    metadata = {"format": MODEL_FORMAT, "model": json.dumps(description, sort_keys=True)}
    temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata))
    temporary.replace(path)


def read_model(path: Path) -> nn.Module:
    """Read a model's safetensors file, ours or a converted one; it is frozen, on the CPU, in evaluation mode.

    Raises:
        WeightsError: the file is missing, is no safetensors file, or is not of this format.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != MODEL_FORMAT:
                raise WeightsError(
                    f"{path} is not a model of cmap: its format is {metadata.get('format')!r}, not {MODEL_FORMAT!r}",
                    "give the name of a model, or a folder written by cmap train",
                )
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"the model {path} cannot be read: {error}") from error
    return frozen(build_model(json.loads(metadata["model"]), tensors))


def frozen(model: nn.Module) -> nn.Module:
    """The model as purification wants it: no gradients of weights, and convolutions that run with channels last."""
    return model.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def build_model(description: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """A model from its description and its tensors."""
    if description["kind"] in (ncsnpp.KIND, adm.KIND):
        network: nn.Module = (ncsnpp if description["kind"] == ncsnpp.KIND else adm).build(description)
        network.load_state_dict(tensors, assign=True)
        return network
    base = GaussianConsistency(
        tensors.pop("mean"),
        tensors.pop("directions"),
        tensors.pop("stds"),
        residual=description["residual"],
        sigma_min=description["sigma_min"],
        sigma_max=description["sigma_max"],
    )
    if description["kind"] == "gaussian":
        return base
    model = UNetConsistency(
        base, description["widths"], description.get("blocks", 1), description.get("preconditioning", "gaussian")
    )
    model.backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in tensors.items()})
    return model


def load_model(
    name: str = DEFAULT_MODEL, device: torch.device | str = "cpu", weights_dir: Path | None = None
) -> ConsistencyModel:
    """A frozen consistency model.

    Args:
        name: of the manifest, bundled or downloaded, which goes before a folder called so; a folder that
            ``cmap train`` wrote; a folder of a diffusers consistency model; ``hf:org/repo``, downloaded before; a
            TorchScript or torch.export file; or ``package.module:factory``, a function without arguments that returns
            a ConsistencyModel. Only the last runs Python that is not ours.
        device: where to put it.
        weights_dir: where downloaded weights are, the user's cache by default.

    Raises:
        WeightsError: there is none of that name, its file is not what it should be, or it is no consistency model.
    """
    return load_identified_model(name, device, weights_dir).model


def load_identified_model(
    name: str = DEFAULT_MODEL, device: torch.device | str = "cpu", weights_dir: Path | None = None
) -> LoadedModel:
    """As :func:`load_model`, with what identifies its weights."""
    known = read_manifest().get(name)
    if known is not None and known.kind == "consistency-model":  # even where a folder is called so
        return from_file(name, local_file(known, weights_dir), device)
    path = Path(name)
    if path.is_dir():
        if (path / MODEL_FILE).is_file():
            return from_file(name, path / MODEL_FILE, device)
        return from_diffusers_folder(name, path, device)
    if path.is_file():
        if path.suffix == ".safetensors":
            return from_file(name, path, device)
        return from_program(name, path, device)
    library, _, rest = name.partition(":")
    if library == "hf" or not (rest or "/" in name or "\\" in name):
        file = local_file(artefact_of(name, "consistency-model"), weights_dir)
        loaded = from_file(name, file, device)
        if library == "hf":
            check_consistency_model(name, loaded.model, device)
        return loaded
    if rest and "/" not in name:
        return from_factory(name, device)
    raise WeightsError(f"the model {name} does not exist", f"cmap train IMAGES --out {name} makes one")


def from_file(name: str, path: Path, device: torch.device | str) -> LoadedModel:
    """A safetensors file of ours."""
    model = read_model(path).to(device)
    return LoadedModel(name, sha256(path), model)  # type: ignore[arg-type]  # what build_model makes is one


def from_diffusers_folder(name: str, folder: Path, device: torch.device | str) -> LoadedModel:
    """Somebody's diffusers folder."""
    if not (diffusers_folder.unet_folder(folder) / diffusers_folder.CONFIG).is_file():
        raise WeightsError(
            f"the folder {name} holds no {MODEL_FILE} and is no diffusers consistency model",
            f"cmap train IMAGES --out {name} makes one",
        )
    refused = {each.sha256: each.reason for artefact in read_manifest().values() for each in artefact.refused}
    converted = diffusers_folder.read_folder(folder, refused)
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
    """Somebody's TorchScript or torch.export file."""
    program = load_program(path, device)
    try:
        channels, height, width = map(int, program.declared["image_shape"])
        sigma_min, sigma_max = float(program.declared["sigma_min"]), float(program.declared["sigma_max"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{name} does not declare {', '.join(DECLARED)}",
            f'save it with the extra file {DECLARATION}: {{"sigma_min": 0.002, "sigma_max": 80, '
            '"image_shape": [3, 32, 32]}',
        ) from error
    model = ProgramConsistency(program.module, sigma_min, sigma_max, (channels, height, width)).requires_grad_(False)
    check_consistency_model(name, model, device)
    return LoadedModel(name, sha256(path), model)


def from_factory(name: str, device: torch.device | str) -> LoadedModel:
    """What a user's function returns."""
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


def check_consistency_model(name: str, model: Any, device: torch.device | str) -> None:
    """Try somebody else's model: attributes, shapes, f(x, t_min) = x, and gradients at t_max.

    Raises:
        WeightsError: it is not a consistency model that latents can be optimised through; what is wrong.
    """
    if not callable(model) or any(not hasattr(model, attribute) for attribute in DECLARED):
        raise WeightsError(
            f"{name} is no consistency model: it is a {type(model).__name__}, not a function of (x, sigma) with the "
            f"attributes {', '.join(DECLARED)}"
        )
    if not 0 < model.sigma_min < model.sigma_max or len(model.image_shape) != 3:
        raise WeightsError(
            f"{name} has the noise levels {model.sigma_min} to {model.sigma_max} and images {model.image_shape}"
        )
    labels = (torch.zeros(2, dtype=torch.int64, device=device),) if num_classes(model) else ()

    def generated(x: Tensor, sigma: float) -> Tensor:
        try:
            out = model(x, torch.full((2,), sigma, device=device), *labels)
        except Exception as error:  # whatever the user's code raises
            raise WeightsError(
                f"{name} fails on {tuple(x.shape)} at {sigma:g}: {str(error).splitlines()[0]}"
            ) from error
        if not isinstance(out, Tensor) or out.shape != x.shape:
            raise WeightsError(f"{name} makes {tuple(getattr(out, 'shape', ()))} of images {tuple(x.shape)}")
        if not bool(out.isfinite().all()):
            raise WeightsError(f"{name} makes values that are not finite at noise level {sigma:g}")
        return out

    x = 2 * torch.rand(2, *model.image_shape, generator=torch.Generator().manual_seed(0)).to(device) - 1
    with torch.no_grad():
        distance = float((generated(x, model.sigma_min) - x).abs().max())
    if distance > BOUNDARY_TOLERANCE:
        raise WeightsError(
            f"{name} is no consistency model: f(x, t_min) should be x and is up to {distance:.3g} away from it",
            "it may take another range than [-1, 1] or other noise levels, or be a diffusion model",
        )
    z = (x * model.sigma_max).requires_grad_()
    with torch.enable_grad():
        image = generated(z, model.sigma_max)
        if not image.requires_grad or not torch.autograd.grad(image.sum(), z)[0].abs().sum() > 0:
            raise UsageError(f"{name} has no gradient with respect to its input, which the method needs")
