"""The images of a benchmark, in the size that is attacked: that of the model or of the classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cmap_cli.benchmarking.certificates.settings import CertifySettings
from cmap_cli.benchmarking.settings import DEFAULT_IMAGES, AnySettings, AttackSettings
from cmap_cli.benchmarking.specs import AttackSpec
from cmap_cli.core.types import ConsistencyModel, TakesAnySize
from cmap_cli.data.catalogue import Dataset, join, load_dataset
from cmap_cli.errors import UsageError
from cmap_cli.models.preprocessing import InputSize

WITHOUT_MODEL = ("none", "jpeg")
"""Beginnings of the names of defences that do not use the consistency model."""
CHUNK = {"cpu": 1, "mps": 16, "cuda": 64}
"""Images attacked at once. On a CPU one alone takes about a third longer, and an interruption loses no more than it."""
CHUNK_SIDE = 224
"""Of larger pictures fewer are attacked at once, so that the memory they take stays the same."""


def default_chunk(device: str, size: tuple[int, int]) -> int:
    """How many images of a size (height, width) are attacked at once on a kind of device."""
    most = CHUNK.get(device, 1)
    return max(1, min(most, most * CHUNK_SIDE**2 // (size[0] * size[1])))


def uses_model(defenses: Sequence[str], specs: Sequence[AttackSpec]) -> bool:
    """Whether images go through the consistency model, in a defence or in the surrogate of an attack."""
    return any(not name.startswith(WITHOUT_MODEL) for name in defenses) or any(s.access == "surrogate" for s in specs)


def attacked_size(dataset: Dataset, declared: InputSize | None, model: ConsistencyModel | None) -> InputSize:
    """The size of the pictures that are attacked, purified and classified.

    It is the size of the model, if the model takes one size only. Otherwise it is the size that the classifier
    declares; but if all images have one size, which is smaller and of the same shape, they are not resized. If the
    classifier declares no size, images of one size are not resized.

    Args:
        dataset: the images in their own sizes.
        declared: size that the classifier declares; None if it declares none.
        model: the model that images go through; None if there is none.

    Raises:
        UsageError: the images have different sizes, and neither model nor classifier has a size.
    """
    if model is not None and not isinstance(model, TakesAnySize):
        return InputSize(*model.image_shape[1:])
    common = dataset.image_shape
    if common is None:
        if declared is None:
            raise UsageError(
                f"the images of {dataset.name} have different sizes, and the classifier declares none",
                "give images of one size, or a classifier that declares its own (a name of cmap list classifiers)",
            )
        return declared
    _, height, width = common
    if declared is None or (height * declared.width == width * declared.height and height <= declared.height):
        return InputSize(height, width)
    return declared


def in_size(dataset: Dataset, size: InputSize) -> Dataset:
    """The data set with its images resized and cropped when they are read."""
    return dataclasses.replace(
        dataset,
        image_size=(size.height, size.width),
        short_side=size.short_side,
        interpolation=size.interpolation,
    )


def load_images(names: Sequence[str], settings: AnySettings | CertifySettings, *, all_images: bool = False) -> Dataset:
    """The images of all data sets; without n ``cmap attack`` takes all, other commands a few, or fewer if there are."""

    def load(name: str, n: int | None) -> Dataset:
        return load_dataset(name, n=n, split=settings.split, labels=settings.labels, weights_dir=settings.weights_dir)

    if len(names) > 1:
        dataset = join([load(name, None) for name in names])
        return dataset if settings.n is None else dataset.select(range(min(settings.n, len(dataset))))
    if settings.n is not None or all_images or isinstance(settings, AttackSettings):
        return load(names[0], settings.n)
    try:
        return load(names[0], DEFAULT_IMAGES)
    except UsageError:
        dataset = load(names[0], None)
        if len(dataset) >= DEFAULT_IMAGES:
            raise
        return dataset


def refuse_unlabelled(dataset: Dataset, measured: str) -> None:
    """Refuse images without labels; ``measured`` is what needs the labels, for the message (UsageError)."""
    if not dataset.labelled:
        raise UsageError(
            f"{dataset.name} has no labels, and {measured} needs them",
            "--labels FILE.csv, or a folder of class folders",
        )
