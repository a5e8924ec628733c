"""What can be wrong with what ``cmap purify`` was told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.choices import ImageFormat, Select
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard, resolve_shard

if TYPE_CHECKING:
    from cmap_cli.data.inputs import Discovery
    from cmap_cli.models.classifiers import LoadedClassifier
    from cmap_cli.models.zoo import LoadedModel


def validate(
    inputs: list[str],
    out: Path,
    image_format: ImageFormat,
    labels: Path | None,
    classifier: str | None,
    select: Select,
    shard_text: str | None,
    overwrite: bool,
    compare: bool,
) -> tuple[Discovery, dict[Path, str], Shard]:
    """All that can be found wrong before torch is loaded, raised at once."""
    from cmap_cli.data.inputs import Discovery, discover
    from cmap_cli.data.labels import read_labels
    from cmap_cli.data.outputs import FORMATS, check_collisions, check_output_folder

    problems: list[CmapError] = []
    found, true_labels, shard = Discovery(), dict[Path, str](), WHOLE
    if select == "vote" and classifier is None:
        problems.append(UsageError("--select vote needs a classifier", "--classifier pyautoattack-resnet18"))
    if labels is not None and classifier is None:
        problems.append(UsageError("--labels needs a classifier to compare with", "--classifier pyautoattack-resnet18"))
    with collecting(problems):
        shard = resolve_shard(shard_text, overwrite)
    if compare and shard != WHOLE and launched_shard() is None:
        problems.append(
            UsageError("--compare does not go with --shard", "the same command without --shard afterwards writes it")
        )
    with collecting(problems):
        found = discover(inputs, sys.stdin if "-" in inputs else None)
        check_collisions(found.sources, FORMATS[image_format], out)
    with collecting(problems):
        check_output_folder(found.folders, out)
    with collecting(problems):
        true_labels = read_labels(labels).names() if labels else {}
    raise_all(problems)
    return found, true_labels, shard


def condition(loaded: LoadedModel, wanted: str | None, classifier: LoadedClassifier | None) -> int | None:
    """The class that a class-conditional model is told for all images; None: the classifier's prediction, or none."""
    from cmap_cli.core.types import num_classes

    classes = num_classes(loaded.model)
    if not classes:
        if wanted is not None:
            raise UsageError(f"--class {wanted} is for class-conditional models; {loaded.name} is none")
        return None
    if wanted is not None:
        if wanted.isdecimal() and int(wanted) < classes:
            return int(wanted)
        if classifier is not None and classifier.num_classes == classes:
            return classifier.class_index(wanted)
        raise UsageError(f"--class {wanted} is no number below {classes}, the classes of {loaded.name}")
    if classifier is None:
        raise UsageError(
            f"{loaded.name} needs a class for each image, one of {classes}",
            "--classifier NAME tells it what it predicts; --class N is for all images",
        )
    if classifier.num_classes != classes:
        raise UsageError(
            f"{loaded.name} is conditioned on {classes} classes, {classifier.name} has {classifier.num_classes}",
            "--class N, or a classifier of the same classes",
        )
    return None


def class_names(labels: dict[Path, str], classifier: LoadedClassifier | None) -> dict[Path, str]:
    """The labels as the classifier names its classes; "3" becomes "cat"."""
    if classifier is None:
        return {}
    return {path: classifier.class_name(classifier.class_index(label)) for path, label in labels.items()}
