"""Load the consistency model, the classifier and the images of a benchmark, in sizes that fit each other."""

from __future__ import annotations

from collections.abc import Sequence

from cmap_cli.benchmarking.pictures import attacked_size, in_size, load_images
from cmap_cli.benchmarking.settings import AnySettings
from cmap_cli.choices import AUTO_MODEL
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.data.catalogue import Dataset, match_classes
from cmap_cli.device import DeviceChoice
from cmap_cli.errors import UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.zoo import SMALL_SHAPE, LoadedModel, load_identified_model, model_for


def load_parts(
    names: Sequence[str], settings: AnySettings, chosen: DeviceChoice, all_images: bool, through_model: bool
) -> tuple[LoadedModel, LoadedClassifier, Dataset]:
    """The model, the classifier, and the images in the size that is attacked, labelled by the classifier's numbers.

    Args:
        names: of data sets.
        settings: of the run; the model "auto" is chosen by the size that is attacked.
        chosen: the device.
        all_images: without n take all there are.
        through_model: whether images go through the model, whose size then counts.

    Raises:
        UsageError: a part does not fit the others.
        WeightsError: a model or classifier cannot be loaded.
    """
    dataset = load_images(names, settings, all_images=all_images)
    loaded = None if settings.model == AUTO_MODEL else load_defended(settings.model, settings, chosen)
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
        loaded = load_defended(model_for((3, got.height, got.width)), settings, chosen)
    size = attacked_size(dataset, classifier.input_size, loaded.model if through_model else None)
    dataset = match_classes(in_size(dataset, size), classifier.classes, classifier.num_classes)
    return loaded, classifier, dataset


def load_defended(name: str, settings: AnySettings, chosen: DeviceChoice) -> LoadedModel:
    """A consistency model that attacks can go through.

    Raises:
        UsageError: the model's images do not have three channels.
        WeightsError: the model cannot be loaded.
    """
    loaded = load_identified_model(name, chosen.device, settings.weights_dir)
    if (channels := loaded.model.image_shape[0]) != 3:
        raise UsageError(f"the model {loaded.name} makes images of {channels} channels; attacks need 3")
    return loaded


def refuse_conditional(loaded: LoadedModel, classifier: LoadedClassifier, defenses: Sequence[str]) -> None:
    """Refuse a class-conditional model that the classifier cannot tell a class, or that would have to denoise alone.

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
            "the model would have to be told the class of a noisy image",
        )
