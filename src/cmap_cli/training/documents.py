"""The typed JSON documents of training."""

from __future__ import annotations

from typing import Literal

from cmap_cli.choices import ModelKind
from cmap_cli.runs.documents import Document, Seconds

SCHEMA: Literal["cmap.train/1"] = "cmap.train/1"


class TrainDocument(
    Document,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"image_shape": "image shape", "seconds": "seconds of training"},
):
    """What ``cmap train --json`` prints; the model card lists the same facts.

    Attributes:
        model: path of the model's file.
        kind: of the model.
        images: how many it was trained on.
        image_shape: their (C, H, W).
        directions: principal directions of the Gaussian.
        command: as the user typed it.
        device: and why it was chosen, and the version of torch.
        seconds: of training, all runs together.
        recipe: the settings of a unet's training, as JSON; absent for a gaussian.
    """

    schema: Literal["cmap.train/1"]
    model: str
    kind: ModelKind
    images: int
    image_shape: tuple[int, ...]
    directions: int
    command: str
    device: str
    seconds: int
    recipe: str = ""


class TrainPlanDocument(Document, frozen=True, kw_only=True):
    """What ``cmap train --dry-run --json`` prints.

    Attributes:
        dry_run: always true.
        kind: of the model.
        images: how many were found; some may prove unreadable.
        image_shape: (C, H, W) that they are fitted to.
        iterations: of the optimiser, 0 for a closed form.
        batch_size: images per iteration, 0 for a closed form.
        device: where.
        out: the model's folder.
        seconds: about how long training will take from its beginning, without reading the images.
    """

    schema: Literal["cmap.train/1"] = SCHEMA
    dry_run: bool = True
    kind: ModelKind
    images: int
    image_shape: tuple[int, int, int]
    iterations: int
    batch_size: int
    device: str
    out: str
    seconds: Seconds | None = None
