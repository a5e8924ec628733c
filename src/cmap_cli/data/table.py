"""The data sets by name: a new one is a loader and one row here. Free of torch, so that a shell completes quickly."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.choices import Split

if TYPE_CHECKING:  # needs torch
    from cmap_cli.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A data set that has a name of its own.

    Attributes:
        spelling: how users write it.
        about: what it is, for ``cmap list datasets``.
        loader: "package.module:function", called with the name, what follows its colon, the split and the weights
            folder; returns the images.
        drawn: how many images the split "subset" draws; 0 if the loader has chosen them.
    """

    spelling: str
    about: str
    loader: str
    drawn: int = 0

    def load(self, name: str, rest: str, split: Split, weights_dir: Path | None) -> Dataset:
        """The images."""
        module, _, function = self.loader.partition(":")
        loader: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
        return loader(name, rest, split, weights_dir)


DATASETS = {
    "cifar10": NamedDataset(
        "cifar10",
        "the paper's 500 test images, bundled; --split test or train after cmap download-weights cifar10",
        "cmap_cli.data.catalogue:load_cifar10",
    ),
    "imagenet100": NamedDataset(
        "imagenet100:FOLDER",
        "validation images of Kaggle's ImageNet-100 in your folder, at 64×64",
        "cmap_cli.data.catalogue:load_imagenet100",
        drawn=500,
    ),
}
"""The data sets by name; all other names are files and folders of the user."""
