"""Checks the settings of ``cmap benchmark`` and ``cmap attack`` and loads what they name."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.attacks.table import Budget
from cmap_cli.attacks.threat import NORMS, ThreatModel, parse_threat
from cmap_cli.benchmarking.campaign import Campaign
from cmap_cli.benchmarking.loading import load_benchmark_parts, refuse_conditional, run_provenance
from cmap_cli.benchmarking.pictures import default_chunk, uses_model
from cmap_cli.benchmarking.settings import UNCOMPARED, AnySettings, AttackSettings
from cmap_cli.benchmarking.specs import AttackSpec, needing_gradients, parse_attacks, parse_defenses
from cmap_cli.choices import Norm
from cmap_cli.core.memory import common_batch_size, patch_batch_size
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import resolve_config
from cmap_cli.core.types import TakesAnySize
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.device import DeviceChoice, choose_device, choose_dtype
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all
from cmap_cli.models.perceptual import load_similarity
from cmap_cli.models.weights.manifest import unknown_names
from cmap_cli.models.zoo import LoadedModel
from cmap_cli.runs.folder import default_folder
from cmap_cli.runs.settings import compared_fields, unusable_values
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import Team, join_team

DEFAULT_EPS: dict[Norm, str] = {"Linf": "8/255", "L2": "0.5", "L1": "12"}


@dataclass(frozen=True, slots=True)
class Parsed:
    """Settings that were parsed before anything is loaded."""

    defenses: tuple[str, ...]
    specs: tuple[AttackSpec, ...]
    threats: tuple[ThreatModel, ...]
    budget: Budget


@dataclass(frozen=True)
class PreparedBenchmark:
    """A checked run with everything loaded.

    Attributes:
        campaign: the benchmark.
        settings: the settings that determine its records.
        provenance: versions, device and command line of the run.
        chosen: the device.
        loaded: the consistency model.
    """

    campaign: Campaign
    settings: dict[str, Any]
    provenance: dict[str, Any]
    chosen: DeviceChoice
    loaded: LoadedModel

    def default_folder(self, seconds: float | None = None) -> Path:
        """The folder in the user's cache for these settings; each time of --budget has a folder of its own."""
        known = self.settings if seconds is None else {**self.settings, "budget_seconds": seconds}
        attacks = dict.fromkeys(spec.name for spec in self.campaign.specs)
        return default_folder("benchmarks", (self.campaign.dataset.name, *attacks), known)


def parse_budget(settings: AnySettings) -> Budget:
    """The budget of the attacks (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    least = {"attack_steps": 1, "restarts": 1, "eot": 1, "queries": 1, "disruption_steps": 5, "reevaluations": 1}
    least |= dict.fromkeys(("n", "steps", "num_latents", "batch_size", "chunk", "samples", "control_images"), 1)
    for name, minimum in least.items():
        value = getattr(settings, name)
        if value is not None and value < minimum:
            problems.append(UsageError(f"--{name.replace('_', '-')} {value} is below {minimum}"))
    if settings.unroll != "all" and not (settings.unroll.isdecimal() and int(settings.unroll) > 0):
        problems.append(UsageError(f"--unroll {settings.unroll} is neither all nor a number above 0"))
    if not 0 < settings.sigma < math.inf:
        problems.append(UsageError(f"--sigma {settings.sigma} is not a finite number above 0"))
    if not 0 <= settings.adv_factor < math.inf:
        problems.append(UsageError(f"--adv-factor {settings.adv_factor} is not a finite number of 0 or more"))
    if not 0 <= settings.smoothing < math.inf:
        problems.append(UsageError(f"--smoothing {settings.smoothing} is not a finite number of 0 or more"))
    raise_all(problems)
    return Budget(
        steps=settings.attack_steps,
        restarts=settings.restarts,
        eot=settings.eot,
        queries=settings.queries,
        disruption=settings.disruption_steps,
        adv_factor=settings.adv_factor,
        unroll=None if settings.unroll == "all" else int(settings.unroll),
        smoothing=settings.smoothing,
        paper=settings.protocol == "paper",
    )


def parse_threats(settings: AnySettings) -> tuple[ThreatModel, ...]:
    """The balls, without repetitions (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    threats: list[ThreatModel] = []
    norm = NORMS.get(settings.norm.lower(), "Linf")
    for eps in settings.eps or (DEFAULT_EPS[norm],):
        with collecting(problems):
            threats.append(parse_threat(settings.norm, eps))
    raise_all(problems)
    return tuple(dict.fromkeys(threats))


def parse_settings(settings: AnySettings) -> Parsed:
    """Check what can be checked before anything is loaded (all problems at once as UsageError)."""
    problems = unknown_names(settings.model, settings.classifier)
    defenses: tuple[str, ...] = ()
    specs: tuple[AttackSpec, ...] = ()
    threats: tuple[ThreatModel, ...] = ()
    budget = Budget()
    raise_all(unusable_values(settings))
    with collecting(problems):
        defenses = parse_defenses(settings.defense)
    with collecting(problems):
        specs = parse_attacks(settings.attack, settings.access, settings.protocol, defenses)
    with collecting(problems):
        threats = parse_threats(settings)
    with collecting(problems):
        budget = parse_budget(settings)
    if settings.classifier.endswith(".onnx") and (names := needing_gradients(specs)):
        problems.append(
            UsageError(
                f"the ONNX classifier {settings.classifier} has no gradients, which {', '.join(names)} need",
                "--attack square attacks without gradients; a TorchScript or torch.export file has them",
            )
        )
    if isinstance(settings, AttackSettings) and len(specs) > 1:
        problems.append(UsageError("cmap attack makes one attack with one access", "cmap benchmark runs several"))
    raise_all(problems)
    return Parsed(defenses, specs, threats, budget)


def prepare_benchmark(
    names: Sequence[str], settings: AnySettings, shard: Shard = WHOLE, *, all_images: bool = False
) -> tuple[PreparedBenchmark, Team]:
    """Check all settings, meet the other processes of the job, then load what the settings name.

    Args:
        names: names of data sets.
        settings: settings of the run.
        shard: shard of this process.
        all_images: whether all images are used if the settings have no n.

    Raises:
        UsageError: a setting is wrong, or images have no labels.
        WeightsError: a model or classifier cannot be loaded.
    """
    parsed = parse_settings(settings)
    team = join_team(shard, settings.device)
    chosen = choose_device(team.device)
    through_model = uses_model(parsed.defenses, parsed.specs)
    loaded, classifier, dataset = load_benchmark_parts(names, settings, chosen, all_images, through_model)
    refuse_conditional(loaded, classifier, parsed.defenses)
    config = resolve_config(
        settings.preset,
        loaded.model,
        method=settings.method,
        steps=settings.steps,
        num_latents=settings.num_latents,
        denoise_level=settings.denoise_level,
    )
    size = dataset.image_size or loaded.model.image_shape[1:]
    sides = size if isinstance(loaded.model, TakesAnySize) else None
    similarity = load_similarity(settings.perceptual, settings.lpips_trunk, settings.weights_dir, chosen.device)
    purifier = Purifier(loaded.model, config, similarity, choose_dtype(settings.precision, chosen.device))
    batch = settings.batch_size or common_batch_size(
        team.exchange(patch_batch_size(purifier, chosen.device, team.sharers, sides))
    )
    defenses = Defenses(parsed.defenses, classifier.module, purifier, settings.vote, batch, settings.seed)
    campaign = Campaign(
        dataset,
        classifier,
        dataclasses.replace(defenses, sigma=settings.sigma, samples=settings.samples),
        parsed.specs,
        parsed.threats,
        parsed.budget,
        settings.reevaluations,
        min(settings.chunk or default_chunk(chosen.device.type, size), len(dataset)),
        chosen.device,
        with_controls=settings.protocol == "end-to-end",
        control_images=settings.control_images,
        cascade=settings.cascade,
    )
    about = run_provenance(("torch", "torchvision", "pyautoattack", "numpy"), chosen, loaded, classifier, dataset)
    about |= {"image_shape": list(dataset.image_shape or ()), **planned(campaign)}
    document = recorded_benchmark_settings(settings, campaign, loaded)
    return PreparedBenchmark(campaign, document, about, chosen, loaded), team


def recorded_benchmark_settings(settings: AnySettings, campaign: Campaign, loaded: LoadedModel) -> dict[str, Any]:
    """The settings of benchmark.json."""
    dataset, purifier = campaign.dataset, campaign.defenses.purifier
    own_labels = hashlib.sha256(dataset.labels.numpy().tobytes()).hexdigest()[:16] if settings.labels else None
    of_smoothed: dict[str, dict[str, Any]] = (
        {} if "smoothed" in campaign.defenses.names else {"sigma": {}, "samples": {}}
    )
    of_lpips: dict[str, dict[str, Any]] = {}
    if settings.perceptual == "ssim":
        of_lpips = {"perceptual": {}, "lpips_trunk": {}}
    within_budget = ("restarts", "eot", "queries", "disruption_steps", "adv_factor", "unroll", "smoothing")
    resolved: dict[str, dict[str, Any]] = {
        "n": {"n": len(dataset), "indices": list(dataset.indices)},
        "split": {"split": dataset.split},
        "labels": {} if own_labels is None else {"labels": own_labels},
        "attack": {"attacks": [str(spec) for spec in campaign.ordered_specs]},
        "access": {},  # part of the attacks
        "norm": {"norm": campaign.threats[0].norm},
        "eps": {"eps": [each.spelled for each in campaign.threats]},
        "attack_steps": {"budget": dataclasses.asdict(campaign.budget)},
        **{name: {} for name in within_budget},  # part of "budget"
        **of_smoothed,
        **of_lpips,
        **({} if campaign.shares_access else {"cascade": {}}),  # where it changes nothing
        "defense": {"defenses": list(campaign.defenses.names)},
        "classifier": {"classifier": campaign.classifier.name},
        "model": {"model": loaded.name, "model_sha256": loaded.sha256},
        "steps": {"purify": dataclasses.asdict(purifier.config)},
        **{name: {} for name in ("method", "num_latents", "denoise_level")},  # part of "purify"
        "precision": {"precision": str(purifier.dtype).removeprefix("torch.")},
    }
    of_command = {"protocol": settings.protocol, "reevaluations": settings.reevaluations}
    return {"dataset": dataset.name, **of_command, **compared_fields(settings, UNCOMPARED, resolved)}


def planned(campaign: Campaign) -> dict[str, Any]:
    """The items of a run in their order, and the number of records of each: with fewer, a run is not complete."""
    counts = {item.name: len(campaign.images(item)) * len(campaign.evaluated(item)) for item in campaign.items()}
    return {"items": list(counts), "records": counts}
