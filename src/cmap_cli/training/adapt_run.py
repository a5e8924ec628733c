"""Adapts a classifier and writes it, for ``cmap train --kind classifier``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import msgspec
import torch

from cmap_cli.data.catalogue import Dataset
from cmap_cli.data.images import to_uint8
from cmap_cli.defenses.smoothing import NoisyClassifier
from cmap_cli.device import choose_dtype
from cmap_cli.errors import ImageError, UsageError
from cmap_cli.files import write_text
from cmap_cli.models.preprocessing import PreparedClassifier
from cmap_cli.models.stored_classifier import CLASSIFIER_FILE, Adaptation, save_classifier
from cmap_cli.training.adapt_loop import LabelledImages, adapt, start_adaptation
from cmap_cli.training.adapt_parts import AdaptationParts
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.documents import SCHEMA, TrainDocument
from cmap_cli.training.loop import TrainingStep
from cmap_cli.training.plan import FEWEST_IMAGES, TrainPlan
from cmap_cli.training.results import OnTrainProgress, TrainProgress

CARD = """# A classifier adapted on denoised training images

{facts}

Use: `cmap certify --classifier {folder}`, `cmap benchmark --defense smoothed --classifier {folder}`

It was trained further on training images with Gaussian noise that a denoiser had removed, as `cmap certify` removes it.
On images without noise it may be worse than before. The weights inherit the terms of the classifier that training began
with, and of the training images.
"""


def run_adaptation(
    plan: TrainPlan,
    parts: AdaptationParts,
    config: AdaptationConfig,
    command: str,
    report: OnTrainProgress,
    on_failure: Callable[[ImageError], None],
) -> tuple[PreparedClassifier, TrainDocument]:
    """Train, or continue from the checkpoint in the folder, and write classifier.safetensors and a card.

    Args:
        plan: settings, images, device and folder.
        parts: the loaded parts of the plan.
        config: the recipe of the plan.
        command: command line, for the card.
        report: called after each image and each iteration.
        on_failure: called for each image that cannot be read.

    Returns:
        The classifier, on the CPU, and the facts that the card lists.

    Raises:
        UsageError: fewer than two images can be read.
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    images = read_labelled(parts.dataset, report, on_failure)
    device = plan.chosen.device
    noisy = denoised_classifier(plan, parts)
    adaptation = facts_of(parts, config, noisy)
    compared = {name: value for name, value in msgspec.to_builtins(adaptation).items() if name != "images"}

    def on_step(step: TrainingStep) -> None:
        report(TrainProgress("iterations", step.iteration, step.iterations, step.loss))

    run = start_adaptation(config, noisy, plan.out, compared | {"count": len(images.x)})
    accuracy, seconds = adapt(run, images, on_step)
    classifier = noisy.classifier.cpu()
    assert isinstance(classifier, PreparedClassifier)
    description = msgspec.structs.replace(parts.description, adapted=adaptation)
    save_classifier(classifier, description, plan.out / CLASSIFIER_FILE)
    document = TrainDocument(
        schema=SCHEMA,
        model=str(plan.out / CLASSIFIER_FILE),
        kind="classifier",
        images=len(images.x),
        image_shape=tuple(images.x.shape[1:]),
        directions=0,
        command=command,
        device=f"{device} ({plan.chosen.reason}), torch {torch.__version__}",
        seconds=round(seconds),
        recipe=json.dumps(dataclasses.asdict(config)),
    )
    write_adaptation_card(plan, adaptation, document, accuracy)
    return classifier, document


def write_adaptation_card(plan: TrainPlan, adaptation: Adaptation, document: TrainDocument, accuracy: object) -> None:
    """Write the model card, README.md."""
    facts = {
        "kind": document.kind,
        **msgspec.to_builtins(adaptation),
        "sigma": ", ".join(f"{each:g}" for each in adaptation.sigma),
        "training images": document.images,
        "command": document.command,
        "device": document.device,
        "seconds of training": document.seconds,
        "share of noisy held-out images that are classified correctly, by sigma": json.dumps(accuracy),
        "recipe": document.recipe,
    }
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    write_text(plan.out / "README.md", CARD.format(facts=listed, folder=plan.out.name))


def denoised_classifier(plan: TrainPlan, parts: AdaptationParts) -> NoisyClassifier:
    """Denoiser and classifier in one module, the same as in ``cmap certify``."""
    dtype = choose_dtype(plan.settings.precision, plan.chosen.device)
    return NoisyClassifier(parts.model.model, parts.classifier.module, dtype=dtype)


def facts_of(parts: AdaptationParts, config: AdaptationConfig, noisy: NoisyClassifier) -> Adaptation:
    """The facts about the training that are stored in the classifier's file."""
    return Adaptation(
        base=parts.classifier.name,
        base_sha256=parts.classifier.sha256,
        model=parts.model.name,
        model_sha256=parts.model.sha256,
        denoiser=noisy.denoiser,
        sigma=tuple(sorted(set(config.sigmas))),
        dataset=parts.dataset.name,
        split=parts.dataset.split,
        images=config.iterations * config.batch_size,
        seed=config.seed,
    )


def read_labelled(
    dataset: Dataset, report: OnTrainProgress, on_failure: Callable[[ImageError], None]
) -> LabelledImages:
    """All images that can be read, in memory: 3 KiB per image at 32×32 (UsageError for fewer than two)."""
    shape = dataset.image_shape
    assert shape is not None
    x = torch.empty((len(dataset), *shape), dtype=torch.uint8)
    read: list[int] = []
    for number in range(len(dataset)):
        try:
            x[len(read)] = to_uint8(dataset.batch(number, number + 1).x[0])
        except ImageError as error:
            on_failure(error)
            continue
        read.append(number)
        report(TrainProgress("images read", len(read), len(dataset)))
    if len(read) < FEWEST_IMAGES:
        raise UsageError("fewer than two training images could be read")
    return LabelledImages(x[: len(read)], dataset.labels[torch.tensor(read)])
