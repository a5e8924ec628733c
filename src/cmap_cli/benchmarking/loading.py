"""The model and the images of a benchmark, which belong together: a model may choose the images' size, or they it."""

from __future__ import annotations

from collections.abc import Sequence

from cmap_cli.benchmarking.settings import DEFAULT_IMAGES, AnySettings, AttackSettings
from cmap_cli.choices import AUTO_MODEL
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.data.catalogue import Dataset, join, load_dataset
from cmap_cli.device import DeviceChoice
from cmap_cli.errors import UsageError
from cmap_cli.models.zoo import LoadedModel, load_identified_model, model_for


def load_model_and_images(
    names: Sequence[str], settings: AnySettings, chosen: DeviceChoice, *, all_images: bool = False
) -> tuple[LoadedModel, Dataset]:
    """The model, which "auto" chooses by the images' size, and the images, at the model's size if it has one.

    Raises:
        UsageError: the model cannot be defended, or there are no such images.
        WeightsError: the model cannot be loaded.
    """
    name, dataset = settings.model, None
    if name == AUTO_MODEL:
        dataset = load_images(names, settings, None, all_images=all_images)
        name = model_for(dataset.image_shape)
    loaded = load_identified_model(name, chosen.device, settings.weights_dir)
    if loaded.model.image_shape[0] != 3:
        channels = loaded.model.image_shape[0]
        raise UsageError(f"the model {loaded.name} makes images of {channels} channels; attacks need 3")
    if num_classes(loaded.model):
        raise UsageError(f"{loaded.name} is class-conditional; attacks through such a defence are not supported")
    return loaded, dataset or load_images(names, settings, image_size(loaded), all_images=all_images)


def image_size(loaded: LoadedModel) -> tuple[int, int] | None:
    """(height, width) of the images of a model; None if it takes any."""
    return None if isinstance(loaded.model, TakesAnySize) else loaded.model.image_shape[1:]


def load_images(
    names: Sequence[str], settings: AnySettings, size: tuple[int, int] | None, *, all_images: bool = False
) -> Dataset:
    """The images of all data sets; a benchmark without n takes a few, or all there are if they are fewer."""

    def load(name: str, n: int | None) -> Dataset:
        return load_dataset(
            name,
            n=n,
            split=settings.split,
            image_size=size,
            labels=settings.labels,
            weights_dir=settings.weights_dir,
        )

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
