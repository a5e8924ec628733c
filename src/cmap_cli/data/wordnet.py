"""The 1,000 classes of ImageNet by their WordNet identifiers, as the folders of its pictures are named."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cmap_cli.models.weights.cache import local_file
from cmap_cli.models.weights.manifest import find_artefact

IMAGENET_CLASSES = 1000


@cache
def imagenet_identifiers() -> tuple[str, ...]:
    """The WordNet identifier of each class, n01440764 first.

    ImageNet's challenge of 2012 numbers its classes in the order of these; so do the classifiers of torchvision, timm
    and Keras.
    """
    return tuple(local_file(find_artefact("imagenet-classes", "dataset")).read_text(encoding="utf-8").split())


def are_wordnet_ids(classes: Sequence[str]) -> bool:
    """Whether there are classes, and the name of each is the identifier of a class of ImageNet."""
    return bool(classes) and set(classes) <= set(imagenet_identifiers())
