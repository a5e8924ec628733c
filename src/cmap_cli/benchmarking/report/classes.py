"""Accuracies by class, and the images on which the defence failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from cmap_cli.benchmarking.report.records import GatheredRecords, Observed, RecordCondition
from cmap_cli.benchmarking.report.statistics import DrawOutcome, Rate, rate_of_true
from cmap_cli.benchmarking.report.values import BrokenImage, ClassResult, FailedUnder


def class_results(
    gathered: GatheredRecords,
    clean: Observed,
    attacked: Mapping[int, DrawOutcome],
    undefended: Mapping[int, bool],
    name: Callable[[int], str],
) -> tuple[ClassResult, ...]:
    """One row per class that has images, in the order of the labels.

    Args:
        gathered: the records, for the labels.
        clean: results of the defence on clean images.
        attacked: result of each image under the worst attack on the defence.
        undefended: whether the bare classifier is right on each attacked image.
        name: function from a class number to its name.
    """
    images = defaultdict(list)
    for image in sorted(clean.outcomes.keys() | attacked.keys()):
        images[gathered.labels[image]].append(image)

    def among(rights: Mapping[int, bool], members: Sequence[int]) -> Rate | None:
        return rate_of_true([rights[image] for image in members if image in rights])

    voted_clean = {image: one.voted_right for image, one in clean.outcomes.items()}
    voted = {image: one.voted_right for image, one in attacked.items()}
    return tuple(
        ClassResult(
            label=label,
            name=name(label),
            n=len(images[label]),
            undefended_clean=among(clean.bare, images[label]),
            undefended_attacked=among(undefended, images[label]),
            defended_clean=among(voted_clean, images[label]),
            defended_attacked=among(voted, images[label]),
        )
        for label in sorted(images)
    )


def find_failures(
    gathered: GatheredRecords, conditions: Sequence[RecordCondition], clean: Observed
) -> tuple[BrokenImage, ...]:
    """The images whose vote is wrong under an attack: first those whose clean vote is right, then by number."""
    under: dict[int, list[FailedUnder]] = defaultdict(list)
    for condition in conditions:
        for image, prediction in gathered.observed[condition].votes.items():
            under[image].append(FailedUnder(condition.attack, condition.access or "", prediction))
    failures = [
        BrokenImage(
            image=image,
            key=gathered.keys[image],
            label=gathered.labels[image],
            right_clean=clean.outcomes[image].voted_right if image in clean.outcomes else None,
            under=tuple(under[image]),
        )
        for image in under
    ]
    return tuple(sorted(failures, key=lambda failure: (not failure.right_clean, failure.image)))
