"""The examples that can be shown, with their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmap_cli.benchmarking.report.pictures import GAIN, RESIDUAL_GAIN, Pictures, read_pictures
from cmap_cli.benchmarking.report.values import Example, Report


@dataclass(frozen=True, slots=True)
class Gallery:
    """The images that the page shows.

    Attributes:
        shown: examples whose pixels exist.
        missing: number of examples without pixels.
        large: whether pictures are shown in their own size, with one example per row.
        gain: factor by which the perturbation is multiplied.
        residual_gain: factor by which the residual is multiplied.
    """

    shown: tuple[tuple[Example, Pictures], ...]
    missing: int
    large: bool = False
    gain: int = GAIN
    residual_gain: int = RESIDUAL_GAIN


def read_gallery(report: Report, folder: Path) -> Gallery:
    """The report's examples with their pixels, from the files of the run."""
    read = [(one, read_pictures(folder, one)) for one in report.examples]
    shown = tuple((one, pictures) for one, pictures in read if pictures)
    return Gallery(shown, len(read) - len(shown), any(pictures.large for _, pictures in shown))
