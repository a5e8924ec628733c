"""Counts and means over the records of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import UNSET

if TYPE_CHECKING:
    from cmap_cli.purify.documents import ImageRecord


FAITHFUL_PSNR = 20.0
"""In dB, a root mean square error of a tenth: a mean below it is a model that does not suit the images. The
perturbations that are to be removed, of 8/255, have 30 dB."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and means over the images of an output folder, earlier runs of the same settings included.

    Attributes:
        images: number of images.
        models: how many of them each model purified.
        l1: mean absolute difference to the input, in [0, 1]; None without images, as the next two.
        psnr: mean PSNR to the input, dB.
        ssim: mean SSIM to the input.
        changed: images whose predicted class is another after purification; None without a classifier.
        labelled: images with a true label; the counts below are of these, None if there are none.
        right_before: correct before purification.
        right_after: correct after purification.
        right_vote: correct by the vote of the candidates.
        regained: wrong before and correct after.
        lost: correct before and wrong after.
    """

    images: int
    models: dict[str, int]
    l1: float | None
    psnr: float | None
    ssim: float | None
    changed: int | None
    labelled: int
    right_before: int | None
    right_after: int | None
    right_vote: int | None
    regained: int | None
    lost: int | None

    @property
    def is_unfaithful(self) -> bool:
        """Whether the results are so far from their inputs that the model does not suit them."""
        return self.psnr is not None and self.psnr < FAITHFUL_PSNR


def summarise(records: Iterable[ImageRecord], labels: Mapping[Path, str]) -> Summary:
    """Add up records.

    Args:
        records: of the manifest.
        labels: class names by resolved path of the source.
    """
    sums: dict[str, list[float]] = {"l1": [], "psnr": [], "ssim": []}
    images = 0
    models: dict[str, int] = {}
    changed: list[bool] = []
    before_after_vote: list[tuple[bool, bool, bool]] = []
    for record in records:
        images += 1
        models[record.model] = models.get(record.model, 0) + 1
        for name, values in sums.items():
            if (value := getattr(record, name)) is not None:
                values.append(value)
        if record.before is not UNSET:
            changed.append(record.before != record.after)
            label = labels.get(Path(record.source).resolve())
            if label is not None:
                before_after_vote.append((record.before == label, record.after == label, record.vote == label))

    def count(wanted: Callable[[bool, bool, bool], bool]) -> int | None:
        return sum(wanted(*one) for one in before_after_vote) if before_after_vote else None

    def mean(name: str) -> float | None:
        return sum(sums[name]) / len(sums[name]) if sums[name] else None

    return Summary(
        images=images,
        models=models,
        l1=mean("l1"),
        psnr=mean("psnr"),
        ssim=mean("ssim"),
        changed=sum(changed) if changed else None,
        labelled=len(before_after_vote),
        right_before=count(lambda before, after, vote: before),
        right_after=count(lambda before, after, vote: after),
        right_vote=count(lambda before, after, vote: vote),
        regained=count(lambda before, after, vote: after and not before),
        lost=count(lambda before, after, vote: before and not after),
    )
