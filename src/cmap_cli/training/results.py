"""Progress and result of a training run, and its files: the model, a sheet of its samples, a model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from cmap_cli.core.consistency import generate, to_unit_range
from cmap_cli.data.sheets import write_samples
from cmap_cli.errors import ImageError
from cmap_cli.files import write_text
from cmap_cli.models.networks.state import Stored
from cmap_cli.models.preprocessing import PreparedClassifier
from cmap_cli.models.store import MODEL_FILE, save_model
from cmap_cli.training.documents import TrainDocument

CARD = """# A consistency model for cmap

{facts}

Use: `cmap purify IMAGES --out DIR --model {folder}`

![one-step samples](samples.png)

The samples are f(z, {sigma_max:g}), clipped, for z ~ N(0, {sigma_max:g}² I) drawn with seed 0.

Limits: the model knows the images it was trained on; other domains are pulled towards these. Purification is no
certificate of robustness. The weights inherit whatever terms the training images carry.
"""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """The progress of a training.

    Attributes:
        unit: "images read", then "iterations".
        done: number of finished units.
        total: number of all units.
        loss: loss of the iteration, a tensor on the device; None while images are read.
    """

    unit: str
    done: int
    total: int
    loss: Tensor | None = None


OnTrainProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        path: path of the model's file.
        model: the model, on the CPU; a classifier for the kind "classifier".
        document: the facts that the model card lists.
        failures: the images that could not be read.
    """

    path: Path
    model: Stored | PreparedClassifier
    document: TrainDocument
    failures: tuple[ImageError, ...]


def write_results(model: Stored, folder: Path, facts: Mapping[str, object], samples: int) -> Path:
    """Write model.safetensors, samples.png and README.md into ``folder``; returns the model's path."""
    path = folder / MODEL_FILE
    save_model(model, path)
    write_samples(folder / "samples.png", draw_samples(model, samples))
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    card = CARD.format(facts=listed, folder=folder.name, sigma_max=model.sigma_max)
    write_text(folder / "README.md", card)
    return path


def draw_samples(model: Stored, count: int, seed: int = 0) -> Tensor:
    """One-step samples in [0, 1], (count, C, H, W)."""
    noise = torch.randn((count, *model.image_shape), generator=Generator().manual_seed(seed))
    with torch.no_grad():
        return to_unit_range(generate(model, noise * model.sigma_max))
