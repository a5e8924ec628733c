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
        kind: kind of the model.
        images: number of training images.
        image_shape: their (C, H, W).
        directions: number of principal directions of the Gaussian.
        command: command line of the user.
        device: the device, why it was chosen, and the version of torch.
        seconds: seconds of training, all runs together.
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
        kind: kind of the model.
        images: number of images that were found; some of them may turn out to be unreadable.
        image_shape: (C, H, W) of the model's images.
        iterations: iterations of the optimiser, 0 for a closed form.
        batch_size: images per iteration, 0 for a closed form.
        device: device of the training.
        out: the model's folder.
        seconds: estimated time of the whole training, without reading the images.
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
