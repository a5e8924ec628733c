"""All that a benchmark does: which attacks on which defences, in which chunks of images, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from cmap_cli.attacks.table import Budget
from cmap_cli.attacks.threat import ThreatModel, parse_threat
from cmap_cli.benchmarking.specs import LARGE, AttackSpec, controls, large_control
from cmap_cli.data.catalogue import Dataset
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.models.classifiers import LoadedClassifier
from cmap_cli.runs.shard import Shard

CONTROL_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to do with every image: an attack at one eps, or nothing (the clean control).

    Attributes:
        spec: the attack; None for the clean images.
        threat: its ball; None for the clean images.
        target: the defence that it goes through; None where what it makes is the same for all defences.
    """

    spec: AttackSpec | None
    threat: ThreatModel | None
    target: str | None

    @property
    def name(self) -> str:
        """Fit for a folder: ``pgd-white-box-Linf-8_255-cmap``."""
        if self.spec is None or self.threat is None:
            return "clean"
        control = ["control"] if self.spec.control else []
        eps = self.threat.spelled.replace("/", "_")
        parts = [*control, self.spec.name, self.spec.access, self.threat.norm, eps]
        return "-".join(parts if self.target is None else [*parts, self.target])


@dataclass(frozen=True)
class Campaign:
    """All that determines a benchmark's records.

    Attributes:
        dataset: the images, all labelled.
        classifier: undefended.
        defenses: what stands before it.
        specs: the attacks.
        with_controls: whether attacks that only serve the masking checks run besides.
        threats: the balls.
        budget: of each attack.
        reevaluations: how often each defence is asked again about each image, with fresh randomness.
        chunk: images that are attacked together; an attack's random numbers depend on it.
        device: where to compute.
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

    def items(self) -> Iterator[Item]:
        """What is done with each chunk of images, in this order."""
        yield Item(None, None, None)
        for threat in self.threats:
            for spec in dict.fromkeys((*self.specs, *(controls(self.specs) if self.with_controls else ()))):
                yield from self.items_of(spec, threat)
        large = large_control(self.specs) if self.with_controls else None
        if large is not None:
            norm = self.threats[0].norm
            yield from self.items_of(large, parse_threat(norm, LARGE[norm]))

    def items_of(self, spec: AttackSpec, threat: ThreatModel) -> Iterator[Item]:
        """One item, or one for each defence that the attack has to go through."""
        if spec.is_defense_agnostic:
            yield Item(spec, threat, None)
        else:
            yield from (Item(spec, threat, name) for name in self.defenses.names if spec.applies_to(name))

    def chunks(self, item: Item) -> Iterator[tuple[int, int]]:
        """(start, stop) of the images that an item is done with: all of them, a few for a control nobody asked for."""
        control = item.spec is not None and item.spec.control and item.spec not in self.specs
        count = min(len(self.dataset), CONTROL_IMAGES) if control else len(self.dataset)
        return ((start, min(start + self.chunk, count)) for start in range(0, count, self.chunk))

    def evaluated(self, item: Item) -> list[str]:
        """The defences that are shown what an item makes."""
        if item.target is not None:
            return [item.target]
        return [name for name in self.defenses.names if item.spec is None or item.spec.applies_to(name)]

    def work(self) -> list[tuple[Item, int, int]]:
        """Everything there is to do: all items of the first chunk, then of the next."""
        listed = [(item, start, stop) for item in self.items() for start, stop in self.chunks(item)]
        return sorted(listed, key=lambda each: each[1])

    def work_of(self, shard: Shard) -> list[tuple[Item, int, int]]:
        """The part of the work that a shard does.

        Chunks stay whole, because an attack's random numbers depend on the images attacked together. They are dealt
        out, not hashed: they are few, their numbers are the same wherever the settings are, and what is dealt out by
        item and chunk gives each shard as much of an expensive attack as the others.
        """
        number = {item.name: position for position, item in enumerate(self.items())}
        return [each for each in self.work() if shard.takes(number[each[0].name] + each[1] // self.chunk)]
