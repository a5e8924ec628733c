"""The settings of ``cmap certify``: the options of the command line, with the same defaults."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.choices import (
    DEFAULT_CLASSIFIER,
    DEFAULT_MODEL,
    Denoiser,
    Precision,
    Procedure,
    Split,
)
from cmap_cli.errors import CmapError, UsageError, raise_all
from cmap_cli.runs.settings import unusable_values

DEFAULT_SIGMAS = (0.25,)
DEFAULT_RADII = (0.1, 0.25, 0.5)
SELECTION = {"cohen": 100, "sequential": 32}
SAMPLES = {"cohen": 10_000, "sequential": 1000}


@dataclass(frozen=True, kw_only=True)
class CertifySettings:
    """The options of ``cmap certify``; the help of the command describes them.

    Attributes have the names of the options.

    Attributes:
        sigma: standard deviations of the noise, one or several.
        radius: ℓ2 radii to report, and to decide (sequential); one or several.
        selection: number of samples that choose the class; None for 100 (cohen) or 32 (sequential).
        samples: number of further samples per image; None for 10,000 (cohen) or at most 1,000 (sequential).
    """

    split: Split = "subset"
    n: int | None = None
    labels: Path | None = None
    sigma: Sequence[float] = DEFAULT_SIGMAS
    radius: Sequence[float] = DEFAULT_RADII
    procedure: Procedure = "sequential"
    selection: int | None = None
    samples: int | None = None
    alpha: float = 0.001
    denoiser: Denoiser = "auto"
    classifier: str = DEFAULT_CLASSIFIER
    normalisation: str | None = None
    model: str = DEFAULT_MODEL
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    weights_dir: Path | None = None

    def __post_init__(self) -> None:
        """Convert repeated options to tuples without repeated values."""
        for name in ("sigma", "radius"):
            value = getattr(self, name)
            values = (value,) if isinstance(value, int | float) else value
            object.__setattr__(self, name, tuple(dict.fromkeys(float(each) for each in values)))

    @property
    def selection_samples(self) -> int:
        """The number of samples that choose the class."""
        return SELECTION[self.procedure] if self.selection is None else self.selection

    @property
    def bound_samples(self) -> int:
        """The largest number of samples that the bound is computed from."""
        return SAMPLES[self.procedure] if self.samples is None else self.samples


def check(settings: CertifySettings) -> None:
    """Refuse values that are out of range (all problems at once as UsageError)."""
    problems: list[CmapError] = unusable_values(settings)
    for name in ("n", "selection", "samples", "batch_size"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            problems.append(UsageError(f"--{name.replace('_', '-')} {value} is below 1"))
    problems += [
        UsageError(f"--sigma {each:g} is not above 0 and below 10", "noise for images in [0, 1]: 0.12, 0.25, 0.5, 1")
        for each in settings.sigma
        if not 0 < each < 10
    ]
    problems += [
        UsageError(f"--radius {each:g} is not a finite number of 0 or more", "ℓ2 of images in [0, 1]: 0.25")
        for each in settings.radius
        if not 0 <= each < math.inf
    ]
    if not settings.sigma or not settings.radius:
        problems.append(UsageError("a certificate needs a --sigma and a --radius"))
    if not 0 < settings.alpha < 0.5:
        problems.append(UsageError(f"--alpha {settings.alpha:g} is not above 0 and below 0.5", "0.001 is usual"))
    raise_all(problems)


def labels_digest(labels: bytes) -> str:
    """A digest that identifies the labels of the user's own file."""
    return hashlib.sha256(labels).hexdigest()[:16]
