"""Checks the settings of ``cmap certify`` and loads what they name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.certificates.bounds import reachable_radius
from cmap_cli.benchmarking.certificates.procedure import Plan
from cmap_cli.benchmarking.certificates.settings import CertifySettings, check, labels_digest
from cmap_cli.benchmarking.certificates.work import Certification
from cmap_cli.benchmarking.loading import load_rgb_model, run_provenance
from cmap_cli.benchmarking.pictures import load_images, refuse_unlabelled
from cmap_cli.benchmarking.settings import UNCOMPARED
from cmap_cli.choices import AUTO_MODEL
from cmap_cli.core.types import TakesAnySize, num_classes
from cmap_cli.data.catalogue import Dataset, match_classes
from cmap_cli.defenses.smoothing import NoisyClassifier, block_size, choose_denoiser
from cmap_cli.device import DeviceChoice, choose_device, choose_dtype
from cmap_cli.errors import UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.zoo import LoadedModel, model_for
from cmap_cli.runs.folder import default_folder
from cmap_cli.runs.settings import compared_fields
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import Team, join_team


@dataclass(frozen=True)
class PreparedCertification:
    """A checked run with everything loaded.

    Attributes:
        run: the certification.
        settings: the settings that determine its records.
        provenance: versions, device and command line of the run.
        chosen: the device.
        classifier: the classifier behind the denoiser.
        loaded: the model; None without a denoiser.
    """

    run: Certification
    settings: dict[str, Any]
    provenance: dict[str, Any]
    chosen: DeviceChoice
    classifier: LoadedClassifier
    loaded: LoadedModel | None

    def default_folder(self, budget: float | None = None) -> Path:
        """The folder in the user's cache for these settings, without those that a budget chooses."""
        named = self.settings
        if budget is not None:
            open_ones = ("n", "indices", "samples")
            named = {name: value for name, value in named.items() if name not in open_ones} | {"budget": budget}
        noise = (f"noise-{sigma:g}" for sigma in self.run.sigmas)
        return default_folder("certificates", (self.run.dataset.name, *noise), named)


def prepare_certify(
    name: str, settings: CertifySettings, shard: Shard = WHOLE, *, all_images: bool = False
) -> tuple[PreparedCertification, Team]:
    """Check all settings, meet the other processes of the job, then load what the settings name.

    Args:
        name: name of the data set.
        settings: settings of the run.
        shard: shard of this process.
        all_images: whether all images are used if the settings have no n, instead of the default number.

    Raises:
        UsageError: a setting is wrong, or images have no labels.
        WeightsError: a model or classifier cannot be loaded.
    """
    check(settings)
    plan = make_plan(settings)
    team = join_team(shard, settings.device)
    chosen = choose_device(team.device)
    loaded, dataset = load_denoiser_and_images(name, settings, chosen, all_images=all_images)
    first = dataset.batch(0, 1).x.shape
    classifier = load_classifier(
        settings.classifier,
        chosen.device,
        image_size=(first[2], first[3]),
        normalisation=settings.normalisation,
        weights_dir=settings.weights_dir,
    )
    refuse_trained_images(dataset, classifier)
    dataset = match_classes(dataset, classifier.classes, classifier.num_classes)
    dtype = choose_dtype(settings.precision, chosen.device)
    noisy = NoisyClassifier(None if loaded is None else loaded.model, classifier.module, settings.denoiser, dtype)
    batch = settings.batch_size or block_size(first[2], first[3], chosen.device)
    run = Certification(dataset, noisy, tuple(settings.sigma), plan, settings.seed, batch, chosen.device)
    about = run_provenance(("torch", "torchvision", "numpy", "scipy"), chosen, loaded, classifier, dataset)
    recorded = recorded_certify_settings(settings, run, loaded, classifier)
    return PreparedCertification(run, recorded, about, chosen, classifier, loaded), team


def with_certify_settings(
    prepared: PreparedCertification, name: str, settings: CertifySettings
) -> PreparedCertification:
    """The same networks with another number of images and samples."""
    run, classifier = prepared.run, prepared.classifier
    dataset = replace(load_images([name], settings), image_size=run.dataset.image_size)
    run = replace(
        run, dataset=match_classes(dataset, classifier.classes, classifier.num_classes), plan=make_plan(settings)
    )
    return replace(prepared, run=run, settings=recorded_certify_settings(settings, run, prepared.loaded, classifier))


def make_plan(settings: CertifySettings) -> Plan:
    """The procedure (UsageError if its samples cannot certify any radius at all)."""
    plan = Plan(
        settings.procedure,
        settings.selection_samples,
        settings.bound_samples,
        settings.alpha,
        tuple(settings.radius),
    )
    if settings.procedure == "sequential":
        most = {sigma: reachable_radius(plan.samples, plan.alpha, sigma) for sigma in settings.sigma}
        if all(most[sigma] < min(plan.radii) for sigma in settings.sigma):
            reach = ", ".join(f"{most[sigma]:.3f} with sigma {sigma:g}" for sigma in settings.sigma)
            raise UsageError(
                f"{plan.samples} samples cannot certify the radius {min(plan.radii):g}: they reach {reach}",
                "a larger --sigma, more --samples, or a smaller --radius",
            )
    return plan


def load_denoiser_and_images(
    name: str, settings: CertifySettings, chosen: DeviceChoice, *, all_images: bool
) -> tuple[LoadedModel | None, Dataset]:
    """The model ("auto" chooses it by the size of the images) and the images, in the model's size if it has one."""
    dataset = load_images([name], settings, all_images=all_images)
    refuse_unlabelled(dataset, "certified accuracy")
    if settings.denoiser == "none":
        return None, dataset
    if settings.model == AUTO_MODEL:
        return load_denoiser(model_for(dataset.image_shape), settings, chosen), dataset
    loaded = load_denoiser(settings.model, settings, chosen)
    if isinstance(loaded.model, TakesAnySize):
        return loaded, dataset
    return loaded, replace(dataset, image_size=loaded.model.image_shape[1:])


def load_denoiser(model: str, settings: CertifySettings, chosen: DeviceChoice) -> LoadedModel:
    """Load the model that denoises (UsageError if it cannot be used)."""
    loaded = load_rgb_model(model, chosen, settings.weights_dir)
    if num_classes(loaded.model):
        raise UsageError(f"{loaded.name} is class-conditional, and the class of a noisy image is not known")
    choose_denoiser(loaded.model, settings.denoiser)
    return loaded


def refuse_trained_images(dataset: Dataset, classifier: LoadedClassifier) -> None:
    """Refuse the images that a classifier was adapted on (UsageError)."""
    adapted = classifier.description and classifier.description.adapted
    if adapted and (adapted.dataset, adapted.split) == (dataset.name, dataset.split):
        part = f"the split {dataset.split} of {dataset.name}" if dataset.split else dataset.name
        raise UsageError(
            f"{part} are the images that {classifier.name} was trained on", "certify it on others, such as a test set"
        )


def recorded_certify_settings(
    settings: CertifySettings, run: Certification, loaded: LoadedModel | None, classifier: LoadedClassifier
) -> dict[str, Any]:
    """The settings of certify.json."""
    dataset = run.dataset
    resolved: dict[str, dict[str, Any]] = {
        "n": {"n": len(dataset), "indices": list(dataset.indices)},
        "split": {"split": dataset.split},
        "labels": {"labels": labels_digest(dataset.labels.numpy().tobytes())} if settings.labels else {},
        "sigma": {"sigma": list(run.sigmas)},
        "radius": {"radius": list(run.plan.radii)},
        "selection": {"selection": run.plan.selection},
        "samples": {"samples": run.plan.samples},
        "denoiser": {"denoiser": run.classifier.denoiser},
        "classifier": {"classifier": classifier.name, "classifier_sha256": classifier.sha256},
        "model": {} if loaded is None else {"model": loaded.name, "model_sha256": loaded.sha256},
        "precision": {"precision": str(run.classifier.dtype).removeprefix("torch.")},
    }
    return {
        "dataset": dataset.name,
        "image_shape": list(dataset.image_shape or ()),
        **compared_fields(settings, UNCOMPARED, resolved),
    }
