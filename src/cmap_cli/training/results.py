"""What a training run leaves: the model, a sheet of its samples, a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor

from cmap_cli.core.consistency import generate, to_unit_range
from cmap_cli.data.sheets import write_samples
from cmap_cli.files import write_text
from cmap_cli.models.networks.state import Stored
from cmap_cli.models.store import MODEL_FILE, save_model

CARD = """# A consistency model for cmap

{facts}

Use: `cmap purify IMAGES --out DIR --model {folder}`

![one-step samples](samples.png)

The samples are f(z, {sigma_max:g}), clipped, for z ~ N(0, {sigma_max:g}² I) drawn with seed 0.

Limits: the model knows the images it was trained on; other domains are pulled towards these. Purification is no
certificate of robustness. The weights inherit whatever terms the training images carry.
"""


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
