"""From a foreign file to what the cache holds: tensors and a description, checked."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import (
    cifar10,
    classifier_state,
    diffusers_folder,
    hf_classifier,
    openai_adm,
    openai_jax,
    score_sde,
)
from cmap_cli.models.formats.adm_configs import ADM_CONFIGS
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.networks.classifiers import ARCHITECTURES
from cmap_cli.models.weights.manifest import Artefact, Source


def convert(artefact: Artefact, source: Source, path: Path) -> Converted:
    """Read a downloaded file, or the folder of a repository, and check its structure.

    Raises:
        WeightsError: it is not of the source's format, its tensors are not those of the artefact's architecture, a
            value is not finite, or the layout or the decoded contents have another fingerprint than the manifest's.
    """
    converted = read(artefact, source, path)
    if source.layout_sha256 and converted.layout_sha256 != source.layout_sha256:
        raise WeightsError(f"{path} has other tensors than {artefact.name}: layout {converted.layout_sha256}")
    broken = [k for k, v in converted.tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise WeightsError(f"{path} has values that are not finite, in {broken[0]}")
    return converted


def read(artefact: Artefact, source: Source, path: Path) -> Converted:
    """The tensors of a file and what they are."""
    match source.format:
        case "flax-msgpack":
            return openai_jax.convert(path)
        case "score-sde":
            return score_sde.convert(classifier_state.unwrap(read_pickle(path)))
        case "openai-adm":
            config = ADM_CONFIGS[artefact.architecture]
            return openai_adm.convert(classifier_state.unwrap(read_pickle(path)), image_size=config["sample_size"])
        case "diffusers":
            state = (
                read_safetensors(path) if path.suffix == ".safetensors" else classifier_state.unwrap(read_pickle(path))
            )
            return diffusers_folder.convert(state, ADM_CONFIGS[artefact.architecture])
        case "hf-repository" if (path / hf_classifier.PREPROCESSOR).is_file():
            return hf_classifier.read_folder(path)
        case "hf-repository":
            return diffusers_folder.read_folder(path)
        case "torchvision-features":
            return trunk(artefact, read_pickle(path))
        case "cifar10-binary":
            return cifar10.read_binary_archive(path, artefact.contents_sha256)
        case "cifar10-tfjs":
            return cifar10.read_tfjs_package(path, artefact.contents_sha256)
        case "safetensors":
            return classifier(artefact, read_safetensors(path))
        case "state-dict":
            return classifier(artefact, classifier_state.unwrap(read_pickle(path)))
    raise WeightsError(f"{artefact.name} is not a file to convert")


def read_pickle(path: Path) -> object:
    """What a file of ``torch.save`` holds: tensors and plain values, never code.

    Raises:
        WeightsError: it needs more than that, or is none.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise WeightsError(
            f"{path} holds more than tensors and plain values, and is not loaded: {reason}",
            "loading it could run code; ask its authors for safetensors or a state dict",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is no file of torch.save: {str(error).splitlines()[0]}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file (WeightsError)."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no safetensors file: {error}") from error


def classifier(artefact: Artefact, state: Mapping[str, Tensor]) -> Converted:
    """A classifier's state dict, its names and shapes those of its architecture."""
    with torch.device("meta"):
        network = build_network(artefact.architecture, artefact.classes)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise WeightsError(
            f"the file is not a {artefact.architecture}: {name} is {found.get(name, 'missing')} in it and "
            f"{expected.get(name, 'missing')} in the network ({len(wrong)} such differences)"
        )
    return Converted(
        {"kind": artefact.architecture}, {k: v.contiguous() for k, v in state.items()}, layout_sha256(found)
    )


def build_network(architecture: str, classes: int) -> torch.nn.Module:
    """A classifier's network by its architecture: ours, ``torchvision:NAME`` or ``timm:NAME``."""
    library, _, name = architecture.partition(":")
    if library == "torchvision":
        import torchvision

        network: torch.nn.Module = torchvision.models.get_model(name)
        return network
    if library == "timm":
        import timm

        created: torch.nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
        return created
    return ARCHITECTURES[architecture]()


def trunk(artefact: Artefact, document: object) -> Converted:
    """The convolutional layers of a torchvision classifier, which LPIPS looks through."""
    state = classifier_state.unwrap(document)
    features = {k.removeprefix("features."): v.contiguous() for k, v in state.items() if k.startswith("features.")}
    if not features:
        raise WeightsError(f"the file of {artefact.name} has no layers called features")
    shapes: dict[str, Any] = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Converted({"kind": f"lpips-{artefact.architecture}"}, features, layout_sha256(shapes))
