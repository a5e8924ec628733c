"""The data sets by name: a new one is a loader and one row here. Free of torch, so that a shell completes quickly."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.choices import Split
from cmap_cli.errors import UsageError, suggestion

if TYPE_CHECKING:  # needs torch
    from cmap_cli.data.dataset import Dataset


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A data set that has a name of its own.

    Attributes:
        spelling: how users write it.
        about: what it is, for ``cmap list datasets``.
        loader: "package.module:function", called with the name, the text after its colon, the split and the weights
            folder; returns the images.
        drawn: how many images the split "subset" draws; 0 if the loader chooses them.
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
KNOWN = "cifar10, imagenet100:FOLDER, a folder of class folders, a CSV file with file,label, .npz, .safetensors or .npy"


def split_array(name: str) -> tuple[Path, str | None]:
    """The path of the user's own data, and which array of the file; None if the name says none."""
    if not os.path.lexists(name) and (array := re.fullmatch(r"(.+\.(?:npz|safetensors)):(.+)", name, re.DOTALL)):
        return Path(array[1]), array[2]
    return Path(name), None


def refuse_unknown(name: str) -> None:
    """Refuse what is neither a data set nor a file, folder or pattern (UsageError); nothing is read."""
    if name.partition(":")[0] in DATASETS:
        return
    path, _ = split_array(name)
    if not name or (not os.path.lexists(path) and not re.search(r"[*?\[]", name)):
        raise UsageError(f"no data set, file or folder is called {name!r}", suggestion(name, DATASETS, KNOWN))
