"""Images with labels, read a few at a time: Dataset -> ImageBatch; selecting images and matching class numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cmap_cli.choices import Interpolation
from cmap_cli.data.images import read_image, to_uint8
from cmap_cli.data.inputs import Source, image_size
from cmap_cli.data.listing import UNKNOWN
from cmap_cli.data.wordnet import IMAGENET_CLASSES, are_wordnet_ids, imagenet_identifiers
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.models.preprocessing import covering

_BY_NUMBER = "Choose a classifier of these classes, or label the images in a CSV file by the classifier's class numbers"


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """A few images in memory.

    Attributes:
        x: (B, 3, H, W) float32 in [0, 1].
        y: (B,) int64, the class of each image, -1 where it is not known.
        keys: B names, the same in every run and on every machine.
    """

    x: Tensor
    y: Tensor
    keys: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images that are read when they are needed, so that memory does not grow with their number.

    Attributes:
        name: as the user gave it.
        split: which part of the data set; "" where there is only one.
        classes: names of the classes, () if unknown; a label is an index into it.
        indices: the number of each image in the whole folder or file, in the test or training set of CIFAR-10.
        labels: (N,) int64, -1 for all if they are not known.
        keys: N names, the same in every run and on every machine.
        sources: where the images are.
        image_size: (height, width) that images of another size are brought to; None to leave them.
        short_side: the images' short side is resized to it before the middle is cut out; 0: they are resized until
            they just cover `image_size`.
        interpolation: the method of that resizing.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    indices: tuple[int, ...]
    labels: Tensor
    keys: tuple[str, ...]
    sources: tuple[Source, ...]
    image_size: tuple[int, int] | None = None
    short_side: int = 0
    interpolation: Interpolation = "bilinear"

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def labelled(self) -> bool:
        """Whether the classes of the images are known."""
        return bool((self.labels != UNKNOWN).all())

    @cached_property
    def _sizes(self) -> frozenset[tuple[int, int]]:
        """(height, width) of the images in their files, by the headers; what cannot be read has none."""
        found = set()
        for source in {(source.path, source.array_key): source for source in self.sources}.values():
            with suppress(ImageError):  # raised again when the image is read
                found.add(image_size(source)[::-1])
        return frozenset(found)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(3, H, W) of every image, None if they have different sizes and no `image_size` was given."""
        sizes = {self.image_size} if self.image_size else self._sizes
        return (3, *next(iter(sizes))) if len(sizes) == 1 else None

    @property
    def resized(self) -> bool:
        """Whether any image is resized and cropped to `image_size`, which also rounds it to 8 bits."""
        return self.image_size is not None and bool(self._sizes - {self.image_size})

    def select(self, positions: Sequence[int]) -> Dataset:
        """The images at these positions, in this order."""
        return replace(
            self,
            indices=tuple(self.indices[i] for i in positions),
            labels=self.labels[torch.tensor(positions, dtype=torch.int64)],
            keys=tuple(self.keys[i] for i in positions),
            sources=tuple(self.sources[i] for i in positions),
        )

    def batch(self, start: int, stop: int) -> ImageBatch:
        """Reads the images from `start` up to `stop`, or to the last one.

        Raises:
            ImageError: one of them cannot be read.
            UsageError: they have different sizes.
            IndexError: there are none.
        """
        here = slice(start, stop)
        images = [read_image(source).pixels for source in self.sources[here]]
        if not images:
            raise IndexError(f"no images from {start} to {stop} of {len(self)}")
        if self.image_size is not None:
            images = [
                resize_and_crop(pixels, self.image_size, self.short_side, self.interpolation) for pixels in images
            ]
        shapes = [pixels.shape[1:] for pixels in images]
        for source, (height, width) in zip(self.sources[here], shapes, strict=True):
            if (height, width) != shapes[0]:
                first = f"{self.sources[start]} has {shapes[0][1]}×{shapes[0][0]}"
                raise UsageError(f"{source} has {width}×{height} pixels, but {first}", "Give images of one size")
        return ImageBatch(torch.stack(images), self.labels[here], self.keys[here])


def resize_and_crop(
    pixels: Tensor, size: tuple[int, int], short_side: int = 0, interpolation: Interpolation = "bilinear"
) -> Tensor:
    """Resize and CenterCrop of torchvision; a picture that already has the size is returned unchanged.

    The picture is resized with antialiasing, its margins are cut off, and its values are rounded to 8 bits per channel.

    Args:
        pixels: (3, H, W) in [0, 1].
        size: (height, width) of the result.
        short_side: pixels that the short side is resized to, not less than ``size``; 0: the picture is resized until
            it just covers ``size``.
        interpolation: the method of resizing.

    Returns:
        (3, *size) in [0, 1].
    """
    (height, width), (h, w) = pixels.shape[1:], size
    if (height, width) == size:
        return pixels
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as transforms

    if short_side:
        target = covering((height, width), short_side)
    else:
        wide = width * h >= height * w  # wider than it should be, so that its height decides
        target = (h, h * width // height) if wide else (w * height // width, w)
    picture = transforms.to_pil_image(to_uint8(pixels))
    picture = transforms.resize(picture, list(target), InterpolationMode(interpolation))
    cropped: Tensor = transforms.to_tensor(transforms.center_crop(picture, [h, w]))
    return cropped


def draw(dataset: Dataset, n: int, seed: int = 0) -> Dataset:
    """Images at random without replacement, in the order of the draw; a smaller n gives the beginning of it.

    With seed 0 it is the draw of the paper: ``RandomState(0).choice(N, n, replace=False)``.

    Raises:
        UsageError: there are fewer images.
    """
    if not 1 <= n <= len(dataset):
        raise UsageError(f"{dataset.name} has {len(dataset):,} images, not {n:,}", "Leave out --n for all of them")
    chosen = np.random.RandomState(seed).choice(len(dataset), n, replace=False)
    return dataset.select([int(position) for position in chosen])


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets, at least one, as one in their order.

    Raises:
        UsageError: they have different classes, or two images would have the same key.
    """
    first = datasets[0]
    if len(datasets) == 1:
        return first
    for other in datasets[1:]:
        if other.classes != first.classes:
            raise UsageError(f"{first.name} and {other.name} have different classes", "Take them one after the other")
    keys = tuple(key for dataset in datasets for key in dataset.keys)
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise UsageError(f"two images are called {repeated[0]}", "Give each of them once")
    return replace(
        first,
        name=" ".join(dataset.name for dataset in datasets),
        indices=tuple(range(len(keys))),
        labels=torch.cat([dataset.labels for dataset in datasets]),
        keys=keys,
        sources=tuple(source for dataset in datasets for source in dataset.sources),
    )


def match_classes(dataset: Dataset, classifier_classes: Sequence[str], num_classes: int) -> Dataset:
    """The data set with its labels in the classifier's numbering.

    Where both know the names of their classes, labels are translated by name; the classifier may know more classes
    than the data set has. If one of them knows only numbers, equal numbers are the same class. Class folders
    that have the WordNet identifiers of ImageNet as names, such as n01440764, are numbered as classifiers of 1,000
    classes number them.

    Args:
        dataset: the images; without labels they are returned unchanged.
        classifier_classes: names, () if unknown; transformers' LABEL_0, LABEL_1, ... are no names.
        num_classes: how many classes the classifier has.

    Raises:
        UsageError: a class is unknown to the classifier, or has a name that it has twice, or a label is no number of
            a class of the classifier, or the data set has another number of classes than a classifier without names.
    """
    names = tuple(classifier_classes)
    if all(re.fullmatch(r"LABEL_[0-9]+", name) for name in names):
        names = ()
    if not dataset.labelled or (dataset.classes and dataset.classes == names):
        return dataset
    if num_classes == IMAGENET_CLASSES and not set(dataset.classes) <= set(names) and are_wordnet_ids(dataset.classes):
        identifiers = imagenet_identifiers()
        numbers = torch.tensor([identifiers.index(name) for name in dataset.classes])
        return replace(dataset, classes=names or identifiers, labels=numbers[dataset.labels])
    if dataset.classes and names:
        count = Counter(names)
        for name in dataset.classes:
            if count[name] != 1:
                known = f"knows {count[name]} classes called {name!r}" if count[name] else f"has no class {name!r}"
                own = f"its classes are {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                raise UsageError(f"the classifier {known}, which {dataset.name} has; {own}", _BY_NUMBER)
        numbers = torch.tensor([names.index(name) for name in dataset.classes])
        return replace(dataset, classes=names, labels=numbers[dataset.labels])
    if dataset.classes and len(dataset.classes) != num_classes:
        both = f"{dataset.name} has {len(dataset.classes)} classes and the classifier {num_classes}"
        raise UsageError(f"{both}, whose names are not known", _BY_NUMBER)
    worst = int(dataset.labels.argmax())
    if (label := int(dataset.labels[worst])) >= num_classes:
        hint = f"It has {num_classes} classes: numbers go up to {num_classes - 1}"
        raise UsageError(
            f"{dataset.keys[worst]} of {dataset.name} has the label {label}, no class of the classifier", hint
        )
    return replace(dataset, classes=names or dataset.classes)
