"""From the options of ``cmap benchmark`` and ``cmap attack`` to what they run: checked, loaded, announced."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

from platformdirs import user_cache_path

from cmap_cli import __version__
from cmap_cli.attacks.threat import NORMS, ThreatModel, parse_threat
from cmap_cli.benchmarking.attack import Budget
from cmap_cli.benchmarking.campaign import Campaign
from cmap_cli.benchmarking.cost import THOROUGH_IMAGES, Cost, measure_cost
from cmap_cli.benchmarking.specs import AttackSpec, parse_attacks
from cmap_cli.choices import Defense, Norm, Precision, Preset, Protocol, Split, Vote
from cmap_cli.cli import console
from cmap_cli.core.memory import common_batch_size, patch_batch_size
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import preset_for
from cmap_cli.core.types import num_classes
from cmap_cli.data.catalogue import Dataset, join, load_dataset, match_classes
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.device import DeviceChoice, choose_device, choose_dtype
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.zoo import LoadedModel, load_identified_model
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import Team, join_team

DEFAULT_EPS: dict[Norm, str] = {"Linf": "8/255", "L2": "0.5", "L1": "12"}
CHUNK = {"cpu": 8, "mps": 16, "cuda": 64}


@dataclass(frozen=True)
class MethodOptions:
    """How the defence works and on what: the options that attack and benchmark share.

    Attributes are the options' values.
    """

    defenses: tuple[Defense, ...]
    classifier: str
    normalisation: str | None
    model: str
    preset: Preset
    steps: int | None
    num_latents: int | None
    vote: Vote
    seed: int
    device: str
    precision: Precision
    batch_size: int | None
    chunk: int | None
    weights_dir: Path | None


@dataclass(frozen=True)
class ThreatOptions:
    """Who attacks, how strongly.

    Attributes are the options' values.
    """

    attacks: tuple[str, ...]
    accesses: tuple[str, ...]
    protocol: Protocol | None
    norm: str
    eps: tuple[str, ...]
    attack_steps: int
    restarts: int
    eot: int
    queries: int
    disruption_steps: int
    unroll: str
    smoothing: float
    reevaluations: int


@dataclass(frozen=True)
class Prepared:
    """A checked run with everything loaded.

    Attributes:
        campaign: what is run.
        settings: what determines its records.
        provenance: what is known besides.
        chosen: the device.
    """

    campaign: Campaign
    settings: dict[str, Any]
    provenance: dict[str, Any]
    chosen: DeviceChoice

    def default_folder(self) -> Path:
        """A folder of the user's cache that these settings always get."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return user_cache_path("cmap", appauthor=False) / "benchmarks" / digest[:16]


def parse_defenses(names: Sequence[str]) -> tuple[Defense, ...]:
    """The defences by name, each once (UsageError for one that there is not)."""
    known: dict[str, Defense] = {name: name for name in get_args(Defense)}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"there is no defence {unknown[0]}", f"one of {', '.join(known)}")
    return tuple(dict.fromkeys(known[name] for name in names))


def parse_threat_options(
    options: ThreatOptions, defenses: Sequence[Defense]
) -> tuple[tuple[AttackSpec, ...], tuple[ThreatModel, ...], Budget]:
    """The attacks, the balls and the budget (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    specs: tuple[AttackSpec, ...] = ()
    threats: list[ThreatModel] = []
    try:
        specs = parse_attacks(options.attacks, options.accesses, options.protocol, defenses)
    except UsageError as error:
        problems += error.problems or [error]
    norm = NORMS.get(options.norm.lower(), "Linf")
    for eps in options.eps or (DEFAULT_EPS[norm],):
        try:
            threats.append(parse_threat(options.norm, eps))
        except UsageError as error:
            problems.append(error)
    if options.unroll != "all" and not (options.unroll.isdecimal() and int(options.unroll) > 0):
        problems.append(UsageError(f"--unroll {options.unroll} is neither all nor a number above 0"))
    if problems:
        raise problems[0] if len(problems) == 1 else UsageError("several options are wrong", problems=problems)
    budget = Budget(
        steps=options.attack_steps,
        restarts=options.restarts,
        eot=options.eot,
        queries=options.queries,
        disruption=options.disruption_steps,
        unroll=None if options.unroll == "all" else int(options.unroll),
        smoothing=options.smoothing,
        paper=options.protocol == "paper",
    )
    return specs, tuple(dict.fromkeys(threats)), budget


def prepare(
    names: Sequence[str],
    split: Split,
    n: int | None,
    labels: Path | None,
    threat: ThreatOptions,
    method: MethodOptions,
    shard: Shard = WHOLE,
) -> tuple[Prepared, Team]:
    """Check all options, meet the other processes of the job, then load what the options name.

    Raises:
        UsageError: an option is wrong, or images have no labels.
        WeightsError: a model or classifier is not to be had.
    """
    specs, threats, budget = parse_threat_options(threat, method.defenses)
    share = join_team(shard, method.device)
    chosen = choose_device(share.device)
    loaded = load_identified_model(method.model, chosen.device, method.weights_dir)
    channels, height, width = loaded.model.image_shape
    if channels != 3:
        raise UsageError(f"the model {loaded.name} makes images of {channels} channels; attacks need 3")
    classifier = load_classifier(
        method.classifier,
        chosen.device,
        image_size=(height, width),
        normalisation=method.normalisation,
        weights_dir=method.weights_dir,
    )
    size = (height, width)
    found = [
        load_dataset(
            name,
            n=n if len(names) == 1 else None,
            split=split,
            image_size=size,
            labels=labels,
            weights_dir=method.weights_dir,
        )
        for name in names
    ]
    dataset = join(found)
    if n is not None and n < len(dataset):
        dataset = dataset.select(range(n))
    if num_classes(loaded.model):
        raise UsageError(f"{loaded.name} is class-conditional; attacks through such a defence are not supported")
    dataset = match_classes(dataset, classifier.classes, classifier.num_classes)
    published = preset_for(method.preset, loaded.model)
    config = dataclasses.replace(
        published, steps=method.steps or published.steps, num_latents=method.num_latents or published.num_latents
    )
    dtype = choose_dtype(method.precision, chosen.device)
    purifier = Purifier(loaded.model, config, dtype=dtype)
    batch = method.batch_size or common_batch_size(
        share.exchange(patch_batch_size(purifier, chosen.device, share.sharers))
    )
    defenses = Defenses(method.defenses, classifier.module, purifier, method.vote, batch, method.seed)
    chunk = min(method.chunk or CHUNK.get(chosen.device.type, 8), len(dataset))
    campaign = Campaign(
        dataset,
        classifier,
        defenses,
        specs,
        threats,
        budget,
        threat.reevaluations,
        chunk,
        chosen.device,
        with_controls=threat.protocol == "end-to-end",
    )
    settings = {
        "dataset": dataset.name,
        "split": dataset.split,
        "n": len(dataset),
        "indices": list(dataset.indices),
        "protocol": threat.protocol,
        "attacks": [str(spec) for spec in specs],
        "norm": threats[0].norm,
        "eps": [each.spelled for each in threats],
        "budget": dataclasses.asdict(budget),
        "reevaluations": threat.reevaluations,
        "defenses": list(method.defenses),
        "classifier": classifier.name,
        "normalisation": method.normalisation,
        "model": loaded.name,
        "model_sha256": loaded.sha256,
        "preset": method.preset,
        "purify": dataclasses.asdict(config),
        "vote": method.vote,
        "seed": method.seed,
        "chunk": chunk,
        "precision": str(dtype).removeprefix("torch."),
    }
    about = provenance(chosen, loaded, classifier, dataset) | {"items": [item.name for item in campaign.items()]}
    return Prepared(campaign, settings, about, chosen), share


def provenance(
    chosen: DeviceChoice, loaded: LoadedModel, classifier: LoadedClassifier, dataset: Dataset
) -> dict[str, Any]:
    """Versions, device, weights: what a reader needs to repeat the run."""
    return {
        "version": __version__,
        **{package: metadata.version(package) for package in ("torch", "torchvision", "pyautoattack", "numpy")},
        "python": platform.python_version(),
        "device": f"{chosen.device} ({chosen.reason})",
        "machine": platform.machine(),
        "command": shlex.join(["cmap", *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": {loaded.name: loaded.sha256, classifier.name: classifier.sha256},
        "classes": list(dataset.classes or classifier.classes),
    }


def announce(prepared: Prepared, folder: Path, shard: Shard, *, verbose: bool) -> Cost:
    """Say what will be done, about how long this shard takes, and what a thorough run would take."""
    campaign = prepared.campaign
    cost = measure_cost(campaign)
    own, work = len(campaign.share(shard)), len(campaign.work())
    cost = dataclasses.replace(cost, seconds=cost.seconds * own / work)
    attacks = ", ".join(map(str, campaign.specs))
    console.say(
        f"{len(campaign.dataset)} images of {campaign.dataset.name}, {campaign.classifier.name} behind "
        f"{', '.join(campaign.defenses.names)}; {attacks}; {campaign.threats[0].norm} "
        f"{', '.join(threat.spelled for threat in campaign.threats)}; {campaign.reevaluations} re-evaluations"
    )
    console.say(
        f"{prepared.chosen.device} ({prepared.chosen.reason}): about {console.duration(cost.seconds)}, into {folder}"
        + ("" if shard == WHOLE else f"; shard {shard}: {own} of {work} chunks")
    )
    console.say(
        f"a thorough run ({THOROUGH_IMAGES} images, 100 steps, 20 draws in every gradient, 5000 queries, 20 "
        f"re-evaluations) would take about {console.duration(cost.thorough)} on this device"
    )
    if campaign.dataset.resized:
        console.warn("images of another size are resized and cropped to the model's")
    if verbose:
        console.say(json.dumps(prepared.settings, indent=2))
    return cost
