"""Train the photograph model from files and write it: the work of ``cmap train --kind photo``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cmap_cli.data.inputs import Source
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.files import make_folder, write_text
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.store import MODEL_FILE, save_model
from cmap_cli.models.zoo import load_model
from cmap_cli.training.checkpoint import CHECKPOINT
from cmap_cli.training.documents import SCHEMA, TrainDocument, TrainPlanDocument
from cmap_cli.training.loop import TrainingStep
from cmap_cli.training.photo_loop import train_photo
from cmap_cli.training.photo_recipe import PhotoConfig
from cmap_cli.training.photos import read_photos

FEWEST_PHOTOS = 2

CARD = """# A consistency model of photographs for cmap

{facts}

Use: `cmap purify IMAGES --out DIR --model {folder}`

The model was trained to denoise crops of photographs; images may have any size. Purification is no certificate of
robustness. The weights inherit whatever terms the training images carry.
"""


@dataclass(frozen=True, slots=True)
class PhotoTraining:
    """What to train the photograph model on, and how.

    Attributes:
        sources: the training photographs.
        out: folder for the model, the checkpoint, the log and the decoded photographs.
        config: the recipe.
        device: to train on.
        dtype: of autocast.
        compiled: whether torch.compile fuses the kernels.
        init: name, file or folder of a photograph model to begin with, or None.
        overwrite: begin again even if there is a checkpoint.
        command: as the user typed it, for the model card.
    """

    sources: Sequence[Source]
    out: Path
    config: PhotoConfig
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    init: str | None
    overwrite: bool
    command: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the last crops."""
        side = self.config.stages[-1].side
        return (3, side, side)

    def document(self) -> TrainPlanDocument:
        """The plan as ``--dry-run --json`` prints it."""
        return TrainPlanDocument(
            kind="photo",
            images=len(self.sources),
            image_shape=self.image_shape,
            iterations=self.config.iterations,
            batch_size=self.config.stages[-1].batch_size,
            device=str(self.device),
            out=str(self.out),
        )


def run_photo_training(
    settings: PhotoTraining,
    on_image: Callable[[], None],
    on_failure: Callable[[ImageError], None],
    on_progress: Callable[[TrainingStep], None],
) -> TrainDocument:
    """Train, or go on from the checkpoint in ``out``, and write model.safetensors and a model card.

    Args:
        settings: what to do.
        on_image: called after each photograph that was read.
        on_failure: told of each photograph that cannot be read.
        on_progress: told after each iteration.

    Returns:
        The facts that the card lists, and the model's path.

    Raises:
        UsageError: fewer than two photographs can be read, or ``init`` is no photograph model of the recipe's size.
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    config, out = settings.config, settings.out
    make_folder(out)
    if settings.overwrite:
        (out / CHECKPOINT).unlink(missing_ok=True)
    photos = read_photos(settings.sources, out, on_image, on_failure)
    if len(photos) < FEWEST_PHOTOS:
        raise UsageError("fewer than two training images could be read")
    model, psnr, seconds = train_photo(
        photos,
        config,
        out,
        on_progress,
        settings.device,
        settings.dtype,
        compiled=settings.compiled,
        initial=initial_model(settings.init, config),
    )
    save_model(model.cpu(), out / MODEL_FILE)
    return write_card(settings, len(photos), model, psnr, seconds)


def write_card(
    settings: PhotoTraining, count: int, model: PhotoConsistency, psnr: object, seconds: float
) -> TrainDocument:
    """Write the model card of a model trained on ``count`` photographs; returns its facts and the model's path."""
    config, out = settings.config, settings.out
    facts: dict[str, object] = {
        "kind": "photo",
        "images": count,
        "crops seen": config.images_until(config.iterations),
        "parameters": sum(each.numel() for each in model.parameters()),
        "command": settings.command,
        "device": f"{settings.device}, torch {torch.__version__}",
        "seconds of training": round(seconds),
        "PSNR in dB of held-out crops denoised at t, of each average of the weights": json.dumps(psnr),
        "recipe": json.dumps(dataclasses.asdict(config)),
    }
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    write_text(out / "README.md", CARD.format(facts=listed, folder=out.name))
    return TrainDocument(
        schema=SCHEMA,
        model=str(out / MODEL_FILE),
        kind="photo",
        images=count,
        image_shape=settings.image_shape,
        directions=0,
        command=settings.command,
        device=str(facts["device"]),
        seconds=round(seconds),
        recipe=str(facts["recipe"]),
    )


def initial_model(name: str | None, config: PhotoConfig) -> PhotoConsistency | None:
    """The photograph model to begin with (UsageError: it is another kind of model, or has another size)."""
    if name is None:
        return None
    model = load_model(name)
    shape = (config.widths, config.blocks, config.middle)
    if not isinstance(model, PhotoConsistency) or (model.widths, model.blocks, model.middle) != shape:
        raise UsageError(f"--init {name} is not a photo model with widths, blocks and middle blocks {shape}")
    return model
