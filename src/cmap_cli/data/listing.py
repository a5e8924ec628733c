"""Pictures and their labels: folders of classes, label files -> Listing. Only headers are read.

All problems are reported at once, before a run begins, because a missing image would change every accuracy. Only
pictures whose pixels are damaged are found later, when they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmap_cli.data.headers import inspect_array
from cmap_cli.data.inputs import Source, discover
from cmap_cli.data.labels import LABELS_HINT, LabelTable
from cmap_cli.errors import CmapError, ImageError, UsageError, raise_all

UNKNOWN = -1
"""The label of an image that has none."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Images and their labels.

    Attributes:
        sources: the images, in the order of their folder or file.
        labels: a class number for each, or `UNKNOWN` for all.
        keys: a name for each image that does not depend on where the files are.
        classes: names of the classes; () if they have only numbers.
    """

    sources: tuple[Source, ...]
    labels: tuple[int, ...]
    keys: tuple[str, ...]
    classes: tuple[str, ...] = ()


def list_class_folders(root: Path, classes: Sequence[str] | None = None, hint: str = "") -> Listing:
    """An ImageFolder: each sub-folder is a class, numbered by name; images in deeper folders belong to it too.

    Args:
        root: the folder.
        classes: the names of all classes, some of which may have no folder here; None for the names of the
            sub-folders, each of which must then contain an image, as torchvision demands.
        hint: of the error for a folder that is none of `classes`.

    Raises:
        UsageError: there is no image, one is in no class, or a class is unknown or empty.
    """
    found = discover([str(root)])
    raise_all([failure.error for failure in found.failures], str(root))
    problems = list[CmapError]()
    folders = [source.path.relative_to(root).parts[0] for source in found.sources]
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = {name: number for number, name in enumerate(present if classes is None else classes)}
    for folder in present if classes is None else ():
        if folder not in folders:
            problems.append(UsageError(f"the class folder {root / folder} holds no image", "Remove it, or fill it"))
    for folder in dict.fromkeys(folders):
        if folder not in present:
            problems.append(
                UsageError(f"{root / folder} is in no class folder", "Move it into the folder of its class")
            )
        elif folder not in names:
            problems.append(UsageError(f"the folder {root / folder} is not one of the {len(names)} classes", hint))
    raise_all(problems, str(root))
    return Listing(tuple(found.sources), tuple(names[f] for f in folders), _keys(found.sources), tuple(names))


def list_images(name: str, table: LabelTable | None) -> Listing:
    """A folder, with class folders if no image lies in it directly, or a file or pattern as ``cmap purify`` takes.

    Args:
        name: as typed.
        table: labels of all images, used instead of class folders; None for the labels of the class folders.

    Raises:
        UsageError: there is no image, one cannot be used, or the table lacks one.
    """
    found = discover([name], below=Path.cwd())  # a name stays the same whatever else is attacked
    root = Path(name)
    if table is None and root.is_dir() and all(source.path.parent != root for source in found.sources):
        return list_class_folders(root)
    problems: list[CmapError] = [failure.error for failure in found.failures]
    if table is None:
        raise_all(problems, name)
        return Listing(tuple(found.sources), (UNKNOWN,) * len(found.sources), _keys(found.sources))
    labels = [table.labels.get(source.path.resolve(), UNKNOWN) for source in found.sources]
    for source, label in zip(found.sources, labels, strict=True):
        if label == UNKNOWN:
            problems.append(UsageError(f"{table.path} has no label for {source}", "Add it, or leave the image out"))
    raise_all(problems, name)
    return Listing(tuple(found.sources), tuple(labels), _keys(found.sources), table.classes)


def _keys(sources: Sequence[Source]) -> tuple[str, ...]:
    """The place of each below its folder; image 7 of in/a.npy is ``a.npy/000007``."""

    def key(source: Source) -> str:
        place = source.relative
        return str(place if source.index is None else place.parent.parent / source.path.name / place.name)

    return tuple(key(source) for source in sources)


def list_table(table: LabelTable) -> Listing:
    """The images that a CSV file names, in its order.

    Raises:
        UsageError: one of them holds no image or several.
    """
    sources, problems = [], list[CmapError]()
    for image, name in zip(table.labels, table.files, strict=True):
        try:
            array = inspect_array(table.path.parent / name)
            if array and array.count is not None:
                raise UsageError(f"{image} holds {array.count} images, {table.path} one label", LABELS_HINT)
        except (ImageError, UsageError) as error:
            problems.append(error)
        else:
            path = table.path.parent / name
            sources.append(Source(path, None, array.key if array else None, PurePosixPath(Path(name).as_posix())))
    raise_all(problems, str(table.path))
    return Listing(tuple(sources), tuple(table.labels.values()), _keys(sources), table.classes)
