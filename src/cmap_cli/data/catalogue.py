"""Data sets by name: CIFAR-10 and the paper's subset of it, ImageNet-100, and the user's own images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from cmap_cli.choices import Split
from cmap_cli.data.arrays import list_array, list_array_folder, read_array
from cmap_cli.data.dataset import Dataset, ImageBatch, draw, join, match_classes
from cmap_cli.data.labels import read_labels
from cmap_cli.data.listing import Listing, list_class_folders, list_images, list_table
from cmap_cli.data.table import DATASETS, KNOWN, refuse_unknown, split_array
from cmap_cli.errors import CmapError, UsageError, raise_all, suggestion
from cmap_cli.models.classifiers import CIFAR10_CLASSES
from cmap_cli.models.weights.cache import local_file
from cmap_cli.models.weights.manifest import find_artefact

__all__ = ["Dataset", "ImageBatch", "Split", "draw", "join", "load_dataset", "match_classes"]


ADVERSARIAL_FIRST = ("x_adv", "x", "x_test")
"""Names of arrays of images in a file, the first that is there is taken."""
OTHER_LISTS = (
    "These are the 100 of Kaggle's ambityga/imagenet100; other lists called ImageNet-100 (CMC's, PODNet's) have other "
    "classes. Any folder of class folders is a data set by its own name, without imagenet100:"
)


def load_dataset(
    name: str,
    *,
    n: int | None = None,
    split: Split = "subset",
    image_size: tuple[int, int] | None = None,
    labels: Path | None = None,
    weights_dir: Path | None = None,
    seed: int = 0,
) -> Dataset:
    """The images to measure on; only headers and labels are read.

    ======================  ==========================================================================
    ``cifar10``             "subset": the paper's 500 test images, in its order; "test", "train": all, cached
    ``imagenet100:FOLDER``  validation images of Kaggle's ImageNet-100, FOLDER/val.X or FOLDER itself, at 64×64;
                            "subset": 500 of them, drawn like the paper's
    a folder                class folders, numbered by name; or images without labels
    ``file.csv``            the columns file and label
    an array file           .npz, .safetensors: x_adv, x or x_test ("train": x_train), or ``file.npz:key``, with the
                            labels y, y_test, y_train; .npy: without labels
    other files, patterns   images without labels, as ``cmap purify`` takes them
    ======================  ==========================================================================

    Args:
        name: one of these.
        n: how many images; None for all. They are drawn at random from a folder, which is sorted by class; of other
            data sets the first n are taken.
        split: which part; only cifar10, imagenet100 and array files have parts.
        image_size: (height, width) that images of another size are brought to; None to leave them.
        labels: a CSV file with the columns file and label, for images in folders.
        weights_dir: where a downloaded CIFAR-10 is, the user's cache by default.
        seed: of the draw from a folder; the paper's is 0.

    Raises:
        UsageError: no such data set, fewer images than n, or labels that do not fit; it names all problems.
        WeightsError: the whole of CIFAR-10 has not been downloaded; the hint is the command that does it.
    """
    problems: list[CmapError] = []
    if n is not None and n < 1:
        problems.append(UsageError(f"--n {n} is no number of images", "Give 1 or more"))
    if image_size is not None and min(image_size) < 1:
        problems.append(UsageError(f"images cannot be {image_size[1]}×{image_size[0]} pixels", "Give 1 or more"))
    kind, _, rest = name.partition(":")
    known = DATASETS.get(kind)
    if labels is not None and known is not None:
        problems.append(UsageError(f"--labels is for your own images, {kind} has labels", "Leave it out"))
    try:
        dataset = _own(name, split, labels) if known is None else known.load(name, rest, split, weights_dir)
    except UsageError as error:
        if not problems:
            raise
        raise_all([*problems, error], name)
    most = min(known.drawn, len(dataset)) if known and known.drawn and split == "subset" else len(dataset)
    if n is not None and n > most:
        problems.append(_too_few(dataset, most, n))
    raise_all(problems, name)
    dataset, count = replace(dataset, image_size=image_size or dataset.image_size), n or most
    if count < len(dataset) and Path(name if known is None else rest).is_dir() and (rest or known is None):
        return draw(dataset, count, seed)
    return dataset.select(range(count))


def _too_few(dataset: Dataset, most: int, n: int) -> UsageError:
    """The error for more images than there are."""
    more = most < len(dataset) or (dataset.name == "cifar10" and dataset.split == "subset")
    hint = "--split test has more" if more else "Leave out --n for all of them"
    part = f"the split {dataset.split} of {dataset.name}" if dataset.split else dataset.name
    return UsageError(f"{part} has {most:,} images, not {n:,}", hint)


def _dataset(name: str, split: str, listing: Listing) -> Dataset:
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    indices = tuple(range(len(labels)))
    return Dataset(name, split, listing.classes, indices, labels, listing.keys, listing.sources)


def load_cifar10(name: str, rest: str, split: Split, weights_dir: Path | None) -> Dataset:
    """The bundled subset, or the whole test or training set from the cache."""
    if rest:
        raise UsageError(f"no data set, file or folder is called {name!r}", suggestion(name, DATASETS, KNOWN))
    path = local_file(find_artefact("cifar10-subset" if split == "subset" else "cifar10", "dataset"), weights_dir)
    listing = list_array(path, "x" if split == "subset" else f"x_{split}")
    dataset = replace(_dataset("cifar10", split, listing), classes=CIFAR10_CLASSES)
    indices = tuple(map(int, read_array(path, "indices"))) if split == "subset" else dataset.indices
    source = "train" if split == "train" else "test"
    return replace(dataset, indices=indices, keys=tuple(f"cifar10/{source}/{index}" for index in indices))


def load_imagenet100(name: str, folder: str, split: Split, _: Path | None) -> Dataset:
    """The validation images of Kaggle's ImageNet-100 in the user's folder."""
    if not folder or not Path(folder).is_dir():
        what = f"{folder} is not a folder" if folder else "the folder of ImageNet-100 is not given"
        raise UsageError(what, "imagenet100:FOLDER, where FOLDER holds val.X or the class folders")
    if split == "train":
        raise UsageError("imagenet100 has only validation images", f"Name a folder: {folder}/train.X1")
    inside = (Path(folder) / each for each in ("val.X", "val"))
    root = next((path for path in inside if path.is_dir()), Path(folder))
    wnids = local_file(find_artefact("imagenet100-classes", "dataset")).read_text(encoding="utf-8").split()
    listing = list_class_folders(root, wnids, OTHER_LISTS)
    dataset = replace(_dataset(name, split, listing), image_size=(64, 64))
    return replace(dataset, keys=tuple(f"imagenet100/val/{key}" for key in dataset.keys))


def _own(name: str, split: Split, labels: Path | None) -> Dataset:
    """The user's own images: an array file, a CSV file, a folder, or files and patterns of images."""
    refuse_unknown(name)
    path, key = split_array(name)
    suffix = path.suffix.lower() if path.is_file() else ""
    if labels is not None and suffix in {".csv", ".npy", ".npz", ".safetensors"}:
        hint = "--labels is for pictures; CSV, .npz and .safetensors files have labels of their own"
        raise UsageError(f"{name} and --labels do not go together", hint)
    if split != "subset" and (key is not None or suffix not in {".npz", ".safetensors"}):
        raise UsageError(f"{name} has no split {split}", "Only cifar10, imagenet100, .npz and .safetensors have splits")
    if suffix == ".csv":
        return _dataset(name, "", list_table(read_labels(path)))
    if suffix in {".npy", ".npz", ".safetensors"}:
        if split == "subset":
            return _dataset(name, "", list_array(path, key, ADVERSARIAL_FIRST))
        return _dataset(name, split, list_array(path, f"x_{split}"))
    arrays = list_array_folder(path, ADVERSARIAL_FIRST) if path.is_dir() and labels is None else None
    if arrays is not None:
        return _dataset(name, "", arrays)
    return _dataset(name, "", list_images(name, read_labels(labels) if labels else None))
