"""Load what a purification needs: model, classifier, perceptual term -> Job."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmap_cli.choices import AUTO_MODEL, PHOTO_MODEL, SMALL_MODEL
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig, preset_for, resolve_config
from cmap_cli.core.types import ConsistencyModel, TakesAnySize, num_classes
from cmap_cli.device import DeviceChoice, choose_device, choose_dtype
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all
from cmap_cli.models.classifiers import LoadedClassifier, count_classes, load_classifier
from cmap_cli.models.perceptual import load_similarity
from cmap_cli.models.zoo import LoadedModel, load_identified_model
from cmap_cli.purify.job import Job, Jobs
from cmap_cli.purify.settings import PurifySettings, compared_purify_settings

AUTO_MODELS = (SMALL_MODEL, PHOTO_MODEL)
"""The models of "auto": the first for pictures of its size, the last for all others."""


@dataclass(frozen=True, slots=True)
class PreparedPurification:
    """A purification whose models are loaded.

    Attributes:
        jobs: how each image is treated; the sizes of batches are not chosen yet.
        device: that the models are on, and why.
        compared: what run.json keeps and a resumed run must share.
    """

    jobs: Jobs
    device: DeviceChoice
    compared: dict[str, Any]


def prepare_purify(
    settings: PurifySettings,
    device: str,
    *,
    model: ConsistencyModel | None = None,
    classifier: nn.Module | None = None,
    size: tuple[int, int] | None = None,
) -> PreparedPurification:
    """Load the models that the settings name.

    Args:
        settings: of the purification.
        device: instead of the settings' own, as a team of processes assigns it.
        model: instead of the settings' own; a module is moved to the device.
        classifier: instead of the settings' own; it is moved to the device and set to evaluation.
        size: (height, width) of an image, on which the classifier is tried unless the model has one size.

    Raises:
        UsageError: a name, value or combination is wrong.
        WeightsError: weights are missing.
    """
    chosen = choose_device(device)
    if model is None:
        names = AUTO_MODELS if settings.model == AUTO_MODEL else (settings.model,)
        loaded = [load_identified_model(name, chosen.device, settings.weights_dir) for name in names]
    else:
        placed = model.to(chosen.device) if isinstance(model, nn.Module) else model
        loaded = [LoadedModel(settings.model, "", placed)]
    configs = {each.name: config_for(settings, each.model) for each in loaded}
    own = loaded[-1].model.image_shape[1:]
    tried = size or own if len(loaded) > 1 or isinstance(loaded[-1].model, TakesAnySize) else own
    judge = None if settings.classifier is None else judge_for(settings, chosen.device, tried, classifier)
    label = common_class(loaded[-1], settings.class_label, judge)
    similarity = load_similarity(settings.perceptual, settings.lpips_trunk, settings.weights_dir, chosen.device)
    dtype = choose_dtype(settings.precision, chosen.device)
    jobs = tuple(
        Job(
            model=each.name,
            purifier=Purifier(each.model, configs[each.name], similarity, dtype),
            device=chosen.device,
            seed=settings.seed,
            fit=settings.fit,
            max_tiles=settings.max_tiles,
            select=settings.select,
            vote=settings.vote,
            classifier=judge,
            label=label,
        )
        for each in loaded
    )
    identified = {each.name: (each.sha256, configs[each.name]) for each in loaded}
    compared = compared_purify_settings(settings, identified, str(dtype).removeprefix("torch."))
    return PreparedPurification(Jobs(jobs), chosen, compared)


def config_for(settings: PurifySettings, model: ConsistencyModel) -> PurifyConfig:
    """What preset, method, steps, num_latents and denoise_level amount to for a model.

    With ``--model auto``, steps are for the model whose preset takes some.
    """
    denoises = settings.method is None and preset_for(settings.preset, model).method == "denoise"
    return resolve_config(
        settings.preset,
        model,
        method=settings.method,
        steps=None if denoises and settings.model == AUTO_MODEL else settings.steps,
        num_latents=settings.num_latents,
        denoise_level=settings.denoise_level,
    )


def judge_for(
    settings: PurifySettings, device: torch.device, size: tuple[int, int], module: nn.Module | None
) -> LoadedClassifier:
    """The classifier of the settings, or the given module as one."""
    name = settings.classifier or ""
    if module is not None:
        given = LoadedClassifier(name, module.to(device).eval())
        return dataclasses.replace(given, num_classes=count_classes(given, device, size))
    return load_classifier(
        name, device, image_size=size, normalisation=settings.normalisation, weights_dir=settings.weights_dir
    )


def common_class(loaded: LoadedModel, wanted: str | None, classifier: LoadedClassifier | None) -> int | None:
    """The class that a class-conditional model gets for all images; None: the classifier's predictions."""
    classes = num_classes(loaded.model)
    if not classes:
        if wanted is not None:
            raise UsageError(
                f"--class {wanted} is for class-conditional models; {loaded.name} is not class-conditional"
            )
        return None
    if wanted is not None:
        if wanted.isdecimal() and int(wanted) < classes:
            return int(wanted)
        if classifier is not None and classifier.num_classes == classes:
            return classifier.class_index(wanted)
        raise UsageError(f"--class {wanted} is no number below {classes}, the classes of {loaded.name}")
    if classifier is None:
        raise UsageError(
            f"{loaded.name} needs a class for each image, one of {classes}",
            "--classifier NAME gives it the predictions of a classifier; --class N is for all images",
        )
    if classifier.num_classes != classes:
        raise UsageError(
            f"{loaded.name} is conditioned on {classes} classes, {classifier.name} has {classifier.num_classes}",
            "--class N, or a classifier of the same classes",
        )
    return None


def named_labels(labels: dict[Path, str], classifier: LoadedClassifier | None) -> dict[Path, str]:
    """True labels as the classifier names its classes: "3" becomes "cat" (UsageError for all that are unknown)."""
    if classifier is None:
        return {}
    problems: list[CmapError] = []
    names = dict[str, str]()
    for label in dict.fromkeys(labels.values()):
        with collecting(problems):
            names[label] = classifier.class_name(classifier.class_index(label))
    raise_all(problems, "the label file")
    return {path: names[label] for path, label in labels.items()}
