"""Load the consistency model, the classifier and the images of a run, in sizes that fit each other."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from cmap_cli import __version__
from cmap_cli.benchmarking.pictures import attacked_size, in_size, load_images
from cmap_cli.benchmarking.settings import AnySettings
from cmap_cli.choices import AUTO_MODEL
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.data.catalogue import Dataset, match_classes
from cmap_cli.device import DeviceChoice
from cmap_cli.errors import UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.zoo import SMALL_SHAPE, LoadedModel, load_identified_model, model_for


def load_benchmark_parts(
    names: Sequence[str], settings: AnySettings, chosen: DeviceChoice, all_images: bool, through_model: bool
) -> tuple[LoadedModel, LoadedClassifier, Dataset]:
    """The model, the classifier, and the images in the size that is attacked, labelled by the classifier's numbers.

    Args:
        names: names of data sets.
        settings: settings of the run; the model "auto" is chosen by the size of the attacked images.
        chosen: the device.
        all_images: whether all images are used if the settings have no n.
        through_model: whether images go through the model; its size is then used.

    Raises:
        UsageError: a part does not fit the others.
        WeightsError: a model or classifier cannot be loaded.
    """
    dataset = load_images(names, settings, all_images=all_images)
    loaded = None if settings.model == AUTO_MODEL else load_rgb_model(settings.model, chosen, settings.weights_dir)
    fixed = through_model and loaded is not None and not isinstance(loaded.model, TakesAnySize)
    tried = loaded.model.image_shape if loaded is not None and fixed else dataset.image_shape or SMALL_SHAPE
    classifier = load_classifier(
        settings.classifier,
        chosen.device,
        image_size=tried[1:],
        normalisation=settings.normalisation,
        weights_dir=settings.weights_dir,
    )
    if loaded is None:
        got = attacked_size(dataset, classifier.input_size, None)
        loaded = load_rgb_model(model_for((3, got.height, got.width)), chosen, settings.weights_dir)
    size = attacked_size(dataset, classifier.input_size, loaded.model if through_model else None)
    dataset = match_classes(in_size(dataset, size), classifier.classes, classifier.num_classes)
    return loaded, classifier, dataset


def load_rgb_model(name: str, chosen: DeviceChoice, weights_dir: Path | None) -> LoadedModel:
    """Load a consistency model of RGB images, as attacks and certificates need it.

    Raises:
        UsageError: the model's images do not have three channels.
        WeightsError: the model cannot be loaded.
    """
    loaded = load_identified_model(name, chosen.device, weights_dir)
    if (channels := loaded.model.image_shape[0]) != 3:
        raise UsageError(
            f"the model {loaded.name} makes images of {channels} channels; attacks and certificates need 3"
        )
    return loaded


def refuse_conditional(loaded: LoadedModel, classifier: LoadedClassifier, defenses: Sequence[str]) -> None:
    """Refuse a class-conditional model whose classes are not the classifier's, or that would have to denoise alone.

    Raises:
        UsageError: the numbers of classes differ, or the defence "smoothed" is among the defences.
    """
    classes = num_classes(loaded.model)
    if not classes:
        return
    if classifier.num_classes != classes:
        raise UsageError(
            f"{loaded.name} is conditioned on {classes} classes, {classifier.name} has {classifier.num_classes}",
            "a class-conditional model is given the classifier's prediction on each image",
        )
    if "smoothed" in defenses:
        raise UsageError(
            f"the defence smoothed does not work with the class-conditional model {loaded.name}",
            "the class of a noisy image is not known",
        )


def run_provenance(
    packages: Sequence[str],
    chosen: DeviceChoice,
    loaded: LoadedModel | None,
    classifier: LoadedClassifier,
    dataset: Dataset,
) -> dict[str, Any]:
    """The provenance of a run: what is needed to repeat it besides its settings.

    Args:
        packages: packages whose versions are included.
        chosen: the device.
        loaded: the consistency model, if one is used.
        classifier: the classifier.
        dataset: the images.
    """
    weights = {each.name: each.sha256 for each in (loaded, classifier) if each is not None}
    adapted = classifier.description and classifier.description.adapted
    return {
        "version": __version__,
        **{package: metadata.version(package) for package in packages},
        "python": platform.python_version(),
        "device": f"{chosen.device} ({chosen.reason})",
        "machine": platform.machine(),
        "command": shlex.join(["cmap", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": weights,
        "classes": list(dataset.classes or classifier.classes),
        **({"adapted": adapted.sentence()} if adapted else {}),
    }
