"""Checks and loads the parts of ``cmap train --kind classifier``: labelled images, a classifier, a denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cmap_cli.choices import AUTO_MODEL
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.data.catalogue import Dataset, load_dataset, match_classes
from cmap_cli.errors import UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.stored_classifier import ClassifierDescription
from cmap_cli.models.zoo import LoadedModel, load_identified_model, model_for
from cmap_cli.training.settings import TrainSettings

CIFAR10 = "cifar10"


@dataclass(frozen=True, slots=True)
class AdaptationParts:
    """The parts that the adaptation of a classifier needs.

    Attributes:
        dataset: training images with the classifier's classes, all of one size.
        classifier: the classifier whose weights training begins with.
        description: description of its network, which is stored in its file.
        model: the model whose denoiser is used.
    """

    dataset: Dataset
    classifier: LoadedClassifier
    description: ClassifierDescription
    model: LoadedModel


def load_adaptation_parts(images: Sequence[str], settings: TrainSettings, device: torch.device) -> AdaptationParts:
    """Load everything but the images themselves.

    Args:
        images: one data set, a value of ``cmap certify --dataset``; empty for the training split of CIFAR-10.
        settings: settings of the training.
        device: where to put the networks.

    Raises:
        UsageError: the data set has no labels or other classes than the classifier, or this cannot be trained.
        WeightsError: the classifier, the model or CIFAR-10 is not on this machine.
    """
    if len(images) > 1:
        raise UsageError(
            f"--kind classifier needs one data set, and {len(images)} are given",
            "cifar10, a folder of class folders, a CSV file with file,label, or an .npz file with x_train and y_train",
        )
    dataset = training_images(images[0] if images else CIFAR10, settings.weights_dir)
    classifier = load_classifier(settings.classifier, device, weights_dir=settings.weights_dir)
    if classifier.description is None:
        raise UsageError(
            f"the classifier {settings.classifier} cannot be trained: it is a program, a function or of transformers",
            "a name of cmap list classifiers, torchvision:NAME or timm:NAME",
        )
    dataset = at_size(match_classes(dataset, classifier.classes, classifier.num_classes), classifier.description)
    name = model_for(dataset.image_shape) if settings.model == AUTO_MODEL else settings.model
    model = load_identified_model(name, device, settings.weights_dir)
    check_model(model, dataset)
    return AdaptationParts(dataset, classifier, classifier.description, model)


def training_images(name: str, weights_dir: Path | None) -> Dataset:
    """The labelled images of a data set; of a data set with splits the training split."""
    has_splits = name == CIFAR10 or Path(name).suffix in {".npz", ".safetensors"}
    dataset = load_dataset(name, split="train" if has_splits else "subset", weights_dir=weights_dir)
    if not dataset.labelled:
        raise UsageError(
            f"{name} has no labels, and a classifier is trained with them",
            "a folder of class folders, a CSV file with file,label, or an .npz file with x_train and y_train",
        )
    return dataset


def at_size(dataset: Dataset, description: ClassifierDescription) -> Dataset:
    """The images in one size: their own if all have the same, else the classifier's."""
    if dataset.image_shape is not None:
        return dataset
    size = (description.height, description.width)
    return replace(dataset, image_size=size, short_side=description.short_side, interpolation=description.interpolation)


def check_model(model: LoadedModel, dataset: Dataset) -> None:
    """Refuse a model that cannot denoise the images (UsageError)."""
    shape = model.model.image_shape
    if num_classes(model.model):
        raise UsageError(f"{model.name} is class-conditional, and the class of a noisy image is not known")
    if not isinstance(model.model, TakesAnySize) and shape != dataset.image_shape:
        found = "×".join(map(str, (dataset.image_shape or ())[1:]))
        raise UsageError(
            f"the images of {dataset.name} have {found} pixels and {model.name} makes {shape[1]}×{shape[2]}",
            "--model photo-unet takes images of any size",
        )
