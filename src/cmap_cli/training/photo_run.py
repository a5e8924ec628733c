"""Trains the photograph model from files and writes it, for ``cmap train --kind photo``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import torch

from cmap_cli.device import choose_dtype
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.files import write_text
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.store import MODEL_FILE, save_model
from cmap_cli.models.zoo import load_model
from cmap_cli.training.documents import SCHEMA, TrainDocument
from cmap_cli.training.loop import TrainingStep
from cmap_cli.training.photo_loop import train_photo
from cmap_cli.training.photo_recipe import PhotoConfig
from cmap_cli.training.photos import read_photos
from cmap_cli.training.plan import FEWEST_IMAGES, TrainPlan
from cmap_cli.training.results import OnTrainProgress, TrainProgress

CARD = """# A consistency model of photographs for cmap

{facts}

Use: `cmap purify IMAGES --out DIR --model {folder}`

The model was trained to denoise crops of photographs; images may have any size. Purification is no certificate of
robustness. The weights inherit whatever terms the training images carry.
"""


def run_photo_training(
    plan: TrainPlan,
    config: PhotoConfig,
    command: str,
    report: OnTrainProgress,
    on_failure: Callable[[ImageError], None],
) -> tuple[PhotoConsistency, TrainDocument]:
    """Train, or continue from the checkpoint in the folder, and write model.safetensors and a model card.

    Args:
        plan: settings, photographs, device and folder.
        config: the recipe of the plan.
        command: command line, for the model card.
        report: called after each photograph and each iteration.
        on_failure: called for each photograph that cannot be read.

    Returns:
        The model, on the CPU, and the facts that the card lists.

    Raises:
        UsageError: fewer than two photographs can be read, or ``init`` is no photograph model of the recipe's size.
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    read, total = 0, len(plan.found.sources)

    def on_image() -> None:
        nonlocal read
        read += 1
        report(TrainProgress("images read", read, total))

    def on_step(step: TrainingStep) -> None:
        report(TrainProgress("iterations", step.iteration, step.iterations, step.loss))

    photos = read_photos(plan.found.sources, plan.out, on_image, on_failure)
    if len(photos) < FEWEST_IMAGES:
        raise UsageError("fewer than two training images could be read")
    device = plan.chosen.device
    model, psnr, seconds = train_photo(
        photos,
        config,
        plan.out,
        on_step,
        device,
        choose_dtype(plan.settings.precision, device),
        compiled=plan.compiled,
        initial=initial_model(plan, config),
    )
    model = model.cpu()
    save_model(model, plan.out / MODEL_FILE)
    return model, write_photo_card(plan, config, command, len(photos), model, psnr, seconds)


def write_photo_card(
    plan: TrainPlan,
    config: PhotoConfig,
    command: str,
    count: int,
    model: PhotoConsistency,
    psnr: object,
    seconds: float,
) -> TrainDocument:
    """Write the model card of a model trained on ``count`` photographs; returns its facts and the model's path."""
    out = plan.out
    facts: dict[str, object] = {
        "kind": "photo",
        "images": count,
        "crops seen": config.images_until(config.iterations),
        "parameters": sum(each.numel() for each in model.parameters()),
        "command": command,
        "device": f"{plan.chosen.device} ({plan.chosen.reason}), torch {torch.__version__}",
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
        image_shape=plan.image_shape,
        directions=0,
        command=command,
        device=str(facts["device"]),
        seconds=round(seconds),
        recipe=str(facts["recipe"]),
    )


def initial_model(plan: TrainPlan, config: PhotoConfig) -> PhotoConsistency | None:
    """The photograph model to begin with (UsageError: it is another kind of model, or has another size)."""
    name = plan.settings.init
    if name is None:
        return None
    model = load_model(name, weights_dir=plan.settings.weights_dir)
    shape = (config.widths, config.blocks, config.middle)
    if not isinstance(model, PhotoConsistency) or (model.widths, model.blocks, model.middle) != shape:
        raise UsageError(f"--init {name} is not a photo model with widths, blocks and middle blocks {shape}")
    return model
