"""Classifiers that ``cmap train --kind classifier`` writes: one safetensors file with weights and description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.choices import Interpolation
from cmap_cli.errors import WeightsError
from cmap_cli.files import write_with
from cmap_cli.models.networks.classifiers import build_classifier
from cmap_cli.models.networks.state import Positive, fill
from cmap_cli.models.preprocessing import InputSize, PreparedClassifier
from cmap_cli.models.store import read_description, read_tensors
from cmap_cli.runs.documents import UNDECODABLE

CLASSIFIER_FILE = "classifier.safetensors"
CLASSIFIER_FORMAT = "cmap-classifier/1"
ADAPTED = "classifier adapted on denoised training images"
"""What every report says of such a classifier."""
HINT = "name a folder that cmap train --kind classifier wrote"
Side = Annotated[int, msgspec.Meta(ge=1, le=8192)]


class Adaptation(msgspec.Struct, frozen=True, kw_only=True):
    """What a classifier was trained on after its own training.

    Attributes:
        base: the classifier it was before.
        base_sha256: of its file.
        model: whose denoiser made the images.
        model_sha256: of its file.
        denoiser: "posterior-mean" or "consistency".
        sigma: standard deviations of the noise, for images in [0, 1].
        dataset: the images' data set, a path of the user or "cifar10".
        split: of the data set, "train" where it has splits.
        images: how many noisy images were shown.
        seed: of images, noise, flips and crops.
    """

    base: str
    base_sha256: str
    model: str
    model_sha256: str
    denoiser: str
    sigma: tuple[float, ...]
    dataset: str
    split: str
    images: int
    seed: int

    def sentence(self) -> str:
        """For reports."""
        levels = ", ".join(f"{each:g}" for each in self.sigma)
        part = f"the split {self.split} of {self.dataset}" if self.split else self.dataset
        return (
            f"The {ADAPTED}: {self.base}, further trained on {self.images:,} noisy images of {part}, noise {levels}, "
            f"denoised by {self.model}."
        )


class ClassifierDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a classifier is built from, beside its weights.

    Attributes:
        kind: always "classifier".
        architecture: see :func:`~cmap_cli.models.networks.classifiers.build_classifier`.
        classes: how many.
        names: of the classes, () if unknown.
        mean: subtracted from images in [0, 1].
        std: divided by after that.
        height: of the images that the network gets.
        width: of them.
        short_side: see :class:`~cmap_cli.models.preprocessing.InputSize`.
        interpolation: of the resizing.
        adapted: how the weights were changed; None for those of a published file.
    """

    architecture: str
    classes: Annotated[int, msgspec.Meta(ge=2)]
    height: Side
    width: Side
    kind: Literal["classifier"] = "classifier"
    names: tuple[str, ...] = ()
    mean: tuple[Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)], ...] = ()
    std: tuple[Positive, ...] = ()
    short_side: Annotated[int, msgspec.Meta(ge=0, le=8192)] = 0
    interpolation: Interpolation = "bilinear"
    adapted: Adaptation | None = None

    @property
    def size(self) -> InputSize:
        """Of the images that the network gets."""
        return InputSize(self.height, self.width, self.short_side, self.interpolation)


def save_classifier(module: PreparedClassifier, description: ClassifierDescription, path: Path) -> None:
    """Write a classifier: convolutions and matrices as float16, everything else as float32.

    Raises:
        OutOfSpaceError: the disk is full.
        CmapError: the file cannot be written for another reason.
    """
    metadata = {"format": CLASSIFIER_FORMAT, "model": json.dumps(msgspec.to_builtins(description), sort_keys=True)}
    tensors = {key: kept(value) for key, value in module.network.state_dict().items()}
    write_with(path, lambda temporary: save_file(tensors, temporary, metadata))


def kept(value: Tensor) -> Tensor:
    """A tensor as the file has it."""
    dtype = torch.float16 if value.ndim > 1 else torch.float32
    return value.detach().cpu().to(dtype).contiguous()


def read_classifier(path: Path) -> tuple[PreparedClassifier, ClassifierDescription]:
    """Read a file of :func:`save_classifier`, onto the CPU.

    Raises:
        WeightsError: it is damaged, is not such a file, or its library is not installed.
    """
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != CLASSIFIER_FORMAT:
        found = metadata.get("format")
        raise WeightsError(
            f"{path} is not a classifier of cmap: its format is {found!r}, not {CLASSIFIER_FORMAT!r}", HINT
        )
    described: dict[str, Any] = read_description(path, metadata)
    try:
        description = msgspec.convert(described, ClassifierDescription)
    except UNDECODABLE as error:
        raise WeightsError(f"the description in {path} is wrong: {error}", HINT) from error
    try:
        network: nn.Module = fill(
            build_classifier(description.architecture, description.classes),
            {key: value.float() for key, value in tensors.items()},
        )
    except WeightsError as error:
        raise WeightsError(f"{path} cannot be used: {error.message}", error.hint or HINT) from error
    return PreparedClassifier(network, description.size, description.mean, description.std), description
