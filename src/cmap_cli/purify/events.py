"""What a purification reports while it runs: frozen records for the callbacks ``on_message`` and ``on_progress``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cmap_cli.choices import Preset
from cmap_cli.runs.forecast import Span, measured

if TYPE_CHECKING:
    from cmap_cli.core.settings import PurifyConfig
    from cmap_cli.core.types import Step
    from cmap_cli.errors import ImageError
    from cmap_cli.purify.documents import ImageRecord


@dataclass(frozen=True, slots=True)
class Listed:
    """The inputs are listed and valid; nothing is loaded yet.

    Attributes:
        images: how many there are.
        own: how many of them this process does.
        shard: what part of the job this process does, as "2/4"; None for all of it.
        skipped: files of other kinds in the folders and patterns.
    """

    images: int
    own: int
    shard: str | None
    skipped: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The patches of all inputs, extrapolated from the headers of up to 500 of them.

    Attributes:
        patches: of all images.
        tiled: images that are cut into tiles.
        tiled_patches: the tiles of these.
        sizes: patches by the model that purifies them and their (height, width).
    """

    patches: int = 0
    tiled: int = 0
    tiled_patches: int = 0
    sizes: Mapping[tuple[str, tuple[int, int]], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that has something to do.

    Attributes:
        name: of the consistency model.
        config: settings of the method.
        sizes: its patches by their (height, width).
        generates: whether latents of the prior generate images.
    """

    name: str
    config: PurifyConfig
    sizes: Mapping[tuple[int, int], int]
    generates: bool


@dataclass(frozen=True, slots=True)
class PurifyPlan:
    """What will be done; the models are loaded, nothing is purified yet.

    Attributes:
        already_there: images that earlier runs have purified.
        models: that have something to do; all that may have, if nothing is left to do.
        device: that they are on.
        reason: why this device.
        precision: what the network computes in.
        preset: of the settings.
        batch_size: patches at once, of the size that has most of them.
        survey: sizes of the images that remain.
        seconds_per_patch: of all patches in the mean, measured on two steps of each model; 0 if nobody asked.
    """

    already_there: int
    models: tuple[PlannedModel, ...]
    device: str
    reason: str
    precision: str
    preset: Preset
    batch_size: int
    survey: Survey
    seconds_per_patch: float

    def patches(self, count: int) -> Span:
        """How long this many patches take."""
        return measured(self.seconds_per_patch) * count


@dataclass(frozen=True, slots=True)
class Failed:
    """An image that could not be purified."""

    source: str
    error: ImageError


@dataclass(frozen=True, slots=True)
class PatchInWork:
    """The first patch of a batch in work.

    Attributes:
        source: its image.
        number: of the patch, from 1; there are ``count`` of the image.
        count: see ``number``.
    """

    source: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Something has happened: the loop begins, a step was taken, an image is done or has failed.

    Attributes:
        total: images of this process.
        done: images that are purified or have failed, of earlier runs too.
        left: how long the rest takes; None if nothing was measured.
        step: a step of the optimisation, reported from another thread.
        patch: what is in work, of a step.
        image: record of an image that was written now.
        failure: an image that has failed now.
    """

    total: int
    done: int
    left: Span | None = None
    step: Step | None = None
    patch: PatchInWork | None = None
    image: ImageRecord | None = None
    failure: Failed | None = None

    @property
    def loss(self) -> float | None:
        """Mean objective of the images of the step; reading it makes an accelerator finish the step first."""
        return None if self.step is None or self.step.total is None else float(self.step.total.mean())


Message = Listed | PurifyPlan
OnMessage = Callable[[Message], None]
OnProgress = Callable[[Progress], None]
