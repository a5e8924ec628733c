"""The settings of ``cmap benchmark`` and ``cmap attack``: the options of the command line, with the same defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cmap_cli.attacks.table import ADV_FACTOR
from cmap_cli.choices import (
    DEFAULT_CLASSIFIER,
    DEFAULT_MODEL,
    DEFAULT_PRESET,
    LpipsTrunk,
    Method,
    Perceptual,
    Precision,
    Preset,
    Protocol,
    Split,
    Vote,
)

UNCOMPARED = {
    "device": "where it is computed",
    "batch_size": "how many images are computed at once",
    "chunk": "how many images are attacked at once; each has random numbers of its own",
    "weights_dir": "where weights are kept; the weights themselves are compared by their SHA-256",
}
"""The settings that do not change results, and why: only these may differ when a run is continued."""
DEFAULT_IMAGES = 8
REPEATED = ("attack", "access", "eps", "defense")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The options that ``cmap attack`` and ``cmap benchmark`` share; the help of the commands describes them.

    Attributes have the names of the options. Options that can be repeated take a name or a sequence of names.
    """

    split: Split = "subset"
    n: int | None = None
    labels: Path | None = None
    attack: Sequence[str] = ()
    access: Sequence[str] = ()
    norm: str = "Linf"
    eps: Sequence[str] = ()
    attack_steps: int = 10
    restarts: int = 1
    eot: int = 1
    queries: int = 50
    disruption_steps: int = 100
    adv_factor: float = ADV_FACTOR
    unroll: str = "all"
    smoothing: float = 0.0
    sigma: float = 0.25
    samples: int = 100
    defense: Sequence[str] = ("cmap",)
    classifier: str = DEFAULT_CLASSIFIER
    normalisation: str | None = None
    model: str = DEFAULT_MODEL
    preset: Preset = DEFAULT_PRESET
    method: Method | None = None
    steps: int | None = None
    num_latents: int | None = None
    denoise_level: float | None = None
    perceptual: Perceptual = "ssim"
    lpips_trunk: LpipsTrunk = "vgg"
    vote: Vote = "soft"
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
    chunk: int | None = None
    weights_dir: Path | None = None

    def __post_init__(self) -> None:
        """Convert repeated options to tuples."""
        for name in REPEATED:
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings(RunSettings):
    """The options of ``cmap benchmark``.

    Attributes:
        n: number of images; None for 8, or all images if there are fewer.
        protocol: "end-to-end", or "paper".
        reevaluations: number of evaluations of each defence per image, with fresh randomness.
        control_images: number of images of each control, an attack that only the checks use.
        cascade: whether attacks skip images that an earlier attack with the same access and ball has broken.
    """

    protocol: Protocol | None = "end-to-end"
    reevaluations: int = 5
    control_images: int = 16
    cascade: bool = True


@dataclass(frozen=True, kw_only=True)
class AttackSettings(RunSettings):
    """The options of ``cmap attack``: one attack with one access.

    Attributes:
        n: number of images; None for all.
    """

    attack: Sequence[str] = ("autoattack",)
    attack_steps: int = 100
    queries: int = 5000
    disruption_steps: int = 1000
    protocol: ClassVar[Protocol | None] = None
    reevaluations: ClassVar[int] = 1
    control_images: ClassVar[int] = 16
    cascade: ClassVar[bool] = False


AnySettings = BenchmarkSettings | AttackSettings
