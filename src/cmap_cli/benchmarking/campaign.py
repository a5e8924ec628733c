"""The work of a benchmark: which attacks are run on which defences and images, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.attacks.threat import ThreatModel, parse_threat
from cmap_cli.benchmarking.specs import LARGE, AttackSpec, controls, large_control
from cmap_cli.data.catalogue import Dataset
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.models.classifiers import LoadedClassifier
from cmap_cli.runs.shard import WHOLE, Shard

CONTROL_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Item:
    """What is done with every image: an attack at one eps, or nothing (clean images).

    Attributes:
        spec: the attack; None for the clean images.
        threat: its ball; None for the clean images.
        target: name of the attacked defence; None if the attacked images are the same for all defences.
    """

    spec: AttackSpec | None
    threat: ThreatModel | None
    target: str | None

    @property
    def name(self) -> str:
        """The name as a folder name: ``pgd-white-box-Linf-8_255-cmap``."""
        if self.spec is None or self.threat is None:
            return "clean"
        control = ["control"] if self.spec.control else []
        eps = self.threat.spelled.replace("/", "_")
        parts = [*control, self.spec.name, self.spec.access, self.threat.norm, eps]
        return "-".join(parts if self.target is None else [*parts, self.target])

    @property
    def cascade_key(self) -> tuple[object, ...] | None:
        """The properties that all items of a cascade share; None for clean images and controls."""
        if self.spec is None or self.spec.control:
            return None
        return self.spec.access, self.threat, self.target

    @property
    def title(self) -> str:
        """The name for messages: "pgd@white-box 8/255 on cmap", "control fgsm@bpda 8/255 on cmap", "clean images"."""
        if self.spec is None or self.threat is None:
            return "clean images"
        control = "control " if self.spec.control else ""
        return f"{control}{self.spec} {self.threat.spelled}" + (f" on {self.target}" if self.target else "")


@dataclass(frozen=True, slots=True)
class Task:
    """One item with one image: the unit of records and shards, and the most that an interruption loses per image."""

    item: Item
    image: int

    @property
    def key(self) -> tuple[str, int]:
        """The key of the task in the records: name of the item, and image."""
        return self.item.name, self.image


@dataclass(frozen=True)
class Campaign:
    """Everything that determines the records of a benchmark, and how many images are attacked at once.

    Attributes:
        dataset: the images, all labelled.
        classifier: the bare classifier.
        defenses: the deployed defences.
        specs: the attacks.
        threats: the balls.
        budget: budget of each attack.
        reevaluations: number of evaluations of each defence per image, with fresh randomness.
        chunk: number of images that are attacked at once; results do not depend on it, except for rounding.
        device: where to compute.
        with_controls: whether controls, which only the masking checks use, are run on ``control_images`` images.
        control_images: number of images of each control, and of images for which two draws of a gradient are compared.
        cascade: whether attacks skip images that an earlier one has broken, see :mod:`cmap_cli.benchmarking.cascade`.
    """

    dataset: Dataset
    classifier: LoadedClassifier
    defenses: Defenses
    specs: Sequence[AttackSpec]
    threats: Sequence[ThreatModel]
    budget: Budget
    reevaluations: int
    chunk: int
    device: torch.device
    with_controls: bool = True
    control_images: int = CONTROL_IMAGES
    cascade: bool = False

    @property
    def ordered_specs(self) -> tuple[AttackSpec, ...]:
        """The attacks in the order in which they are run: in a cascade the cheapest attack of each access first."""
        if not self.cascade:
            return tuple(self.specs)
        cheapest = {
            access: iter(sorted((spec for spec in self.specs if spec.access == access), key=self.passes))
            for access in dict.fromkeys(spec.access for spec in self.specs)
        }
        return tuple(next(cheapest[spec.access]) for spec in self.specs)

    def passes(self, spec: AttackSpec) -> int:
        """The planned passes and steps of an attack; a pass with a gradient counts three times."""
        plan = ATTACKS[spec.name].plan(self.budget, spec.access)
        return plan.forward + 2 * plan.backward + plan.steps

    @property
    def shares_access(self) -> bool:
        """Whether several attacks, without controls, have the same access: only then a cascade changes anything."""
        accesses = [spec.access for spec in self.specs if not spec.control]
        return len(set(accesses)) < len(accesses)

    @property
    def cascades(self) -> bool:
        """Whether any attack can skip images."""
        return self.cascade and self.shares_access

    def earlier(self, item: Item, items: Sequence[Item]) -> tuple[Item, ...]:
        """The items before an item in its cascade: those with the same access, ball and attacked defence."""
        if not self.cascade or item.cascade_key is None:
            return ()
        return tuple(one for one in items[: items.index(item)] if one.cascade_key == item.cascade_key)

    def is_on_classifier(self, item: Item) -> bool:
        """Whether an item attacks the bare classifier."""
        return item.spec is not None and item.spec.access == "transfer"

    def items(self) -> Iterator[Item]:
        """The items that are done with each image, in this order."""
        yield Item(None, None, None)
        for threat in self.threats:
            for spec in dict.fromkeys((*self.ordered_specs, *(controls(self.specs) if self.with_controls else ()))):
                yield from self.items_of(spec, threat)
        large = large_control(self.specs) if self.with_controls else None
        if large is not None:
            norm = self.threats[0].norm
            yield from self.items_of(large, parse_threat(norm, LARGE[norm]))

    def items_of(self, spec: AttackSpec, threat: ThreatModel) -> Iterator[Item]:
        """One item, or one per defence if the attack depends on the defence."""
        if spec.is_defense_agnostic:
            yield Item(spec, threat, None)
        else:
            yield from (Item(spec, threat, name) for name in self.defenses.names if spec.applies_to(name))

    def images(self, item: Item) -> range:
        """The images of an item: all images; a few for a control that was added for the checks."""
        control = item.spec is not None and item.spec.control and item.spec not in self.specs
        return range(min(len(self.dataset), self.control_images) if control else len(self.dataset))

    def evaluated(self, item: Item) -> list[str]:
        """The defences that are evaluated on the images of an item."""
        if item.target is not None:
            return [item.target]
        return [name for name in self.defenses.names if item.spec is None or item.spec.applies_to(name)]

    def tasks(self, shard: Shard = WHOLE) -> list[Task]:
        """The tasks of a shard in the order of one process: all items of the first image, then of the next image.

        Tasks are divided by their number, which follows from the settings. Dividing by item and image gives each shard
        the same amount of an expensive attack. In a cascade all attacks on an image belong to one shard.
        """
        listed = [
            Task(item, image)
            for number, item in enumerate(self.items())
            for image in self.images(item)
            if shard.takes(image if self.cascades else number + image)
        ]
        return sorted(listed, key=lambda task: task.image)
