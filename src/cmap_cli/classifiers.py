"""Classifiers that images are shown to before and after purification."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmap_cli.choices import DEFAULT_CLASSIFIER
from cmap_cli.errors import UsageError, WeightsError
from cmap_cli.weights import find_artefact, installed_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class LoadedClassifier:
    """A frozen classifier of images in [0, 1] and the names of its classes (empty if unknown)."""

    name: str
    module: nn.Module
    classes: tuple[str, ...] = ()

    def class_name(self, index: int) -> str:
        """The name of a class, its number where it has none."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def class_index(self, label: str) -> int:
        """The class that a label means, a name or a number (UsageError if it is neither)."""
        if label in self.classes:
            return self.classes.index(label)
        if label.isdecimal():
            return int(label)
        raise UsageError(f"the label {label!r} is neither a number nor a class of {self.name}")


class ResizedAndNormalised(nn.Module):
    """A torchvision classifier with its declared input size, mean and deviation in front."""

    def __init__(self, network: nn.Module, size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1], (N, 3, H, W), of any size -> logits (N, classes)."""
        if x.shape[-2:] != (self.size, self.size):
            x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def load_classifier(name: str = DEFAULT_CLASSIFIER, device: torch.device | str = "cpu") -> LoadedClassifier:
    """A frozen classifier.

    Args:
        name: "pyautoattack-resnet18" (CIFAR-10, comes with pyautoattack), "torchvision:NAME" with its default
            weights, or "package.module:factory", a function without arguments that returns a torch module which
            takes images in [0, 1] and returns logits. Only the last runs code that is not ours.
        device: where to put it.

    Raises:
        UsageError: the name or the factory is not what it should be.
        WeightsError: the weights are not to be had.
    """
    scheme, _, rest = name.partition(":")
    if not rest:
        loaded = LoadedClassifier(name, load_pyautoattack(name), CIFAR10_CLASSES)
    elif scheme == "torchvision":
        loaded = load_torchvision(name, rest)
    else:
        loaded = LoadedClassifier(name, call_factory(name, scheme, rest))
    loaded.module.to(device).requires_grad_(False).eval()
    return loaded


def load_pyautoattack(name: str) -> nn.Module:
    """The CIFAR-10 ResNet-18 that lies beside pyautoattack's examples: images in [0, 1], no normalisation."""
    path = installed_file(find_artefact(name, "classifier"))
    network: nn.Module = importlib.import_module("pyautoattack.examples.resnet").ResNet18()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def load_torchvision(name: str, architecture: str) -> LoadedClassifier:
    """A torchvision model with its default weights, from torch's own cache or download, which checks their hash."""
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(architecture).DEFAULT
        network = torchvision.models.get_model(architecture)
    except ValueError as error:
        raise UsageError(f"torchvision has no model {architecture}", "see torchvision.models.list_models()") from error
    try:
        network.load_state_dict(weights.get_state_dict(check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights of {name} cannot be loaded: {error}",
            f"put the file of {weights.url} into torch's hub folder, or use --classifier {DEFAULT_CLASSIFIER}",
        ) from error
    transform = weights.transforms()
    front = ResizedAndNormalised(network, transform.crop_size[0], transform.mean, transform.std)
    return LoadedClassifier(name, front, tuple(weights.meta.get("categories", ())))


def call_factory(name: str, module: str, function: str) -> nn.Module:
    """The module that ``package.module:factory`` returns."""
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the classifier {name} cannot be imported: {error}",
            f"use {DEFAULT_CLASSIFIER}, torchvision:NAME or package.module:factory",
        ) from error
    classifier = factory()
    if not isinstance(classifier, nn.Module):
        raise UsageError(f"{name} returned a {type(classifier).__name__}, not a torch.nn.Module")
    return classifier
