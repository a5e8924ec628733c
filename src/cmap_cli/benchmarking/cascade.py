"""A cascade: an attack skips the images that an earlier attack with the same access and ball has broken.

An image is broken if the defence is wrong in every re-evaluation. Vote, average and worst draw of this image cannot
become lower, so the worst case over the attacks with one access is the same with and without a cascade.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cmap_cli.benchmarking.campaign import Campaign, Item, Task
from cmap_cli.benchmarking.documents import BenchmarkRecord


@dataclass
class Cascade:
    """The images that earlier attacks have broken, from their records.

    Whether an image is skipped depends only on its own records, so shards, chunks and resuming change nothing.

    Attributes:
        campaign: the benchmark.
        broken: all (item, defence, image) where every re-evaluation is wrong.
        bare: all (item, image) where the bare classifier is wrong.
        images: the first record of each image, for its key and label.
        earlier: the items before an item in its cascade, by name.
    """

    campaign: Campaign
    broken: set[tuple[str, str, int]] = field(default_factory=set)
    bare: set[tuple[str, int]] = field(default_factory=set)
    images: dict[int, BenchmarkRecord] = field(default_factory=dict)
    earlier: dict[str, tuple[Item, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Compute the items before each item."""
        items = list(self.campaign.items())
        self.earlier = {item.name: self.campaign.earlier(item, items) for item in items}

    def learn(self, records: Iterable[BenchmarkRecord]) -> None:
        """Add the records of attacks."""
        for record in records:
            if record.broken_by is not None or record.item not in self.earlier:
                continue
            self.images.setdefault(record.image, record)
            if all(draw != record.label for draw in record.draws):
                self.broken.add((record.item, record.defense, record.image))
            if record.undefended != record.label:
                self.bare.add((record.item, record.image))

    def broken_by(self, task: Task) -> dict[str, str] | None:
        """The earlier item that broke the image, for each defence that this task would evaluate; None: attack it.

        The report also uses attacks on the bare classifier for the accuracy without a defence, so such an attack skips
        an image only if the bare classifier is wrong, too.
        """
        before = self.earlier[task.item.name]
        if not before:
            return None
        if self.campaign.is_on_classifier(task.item) and not any((one.name, task.image) in self.bare for one in before):
            return None
        found = {}
        for defense in self.campaign.evaluated(task.item):
            names = [one.name for one in before if (one.name, defense, task.image) in self.broken]
            if not names:
                return None
            found[defense] = names[0]
        return found

    def divide(self, group: Sequence[Task]) -> tuple[list[Task], list[BenchmarkRecord]]:
        """The tasks to run, and the records of the tasks that are skipped."""
        left: list[Task] = []
        records: list[BenchmarkRecord] = []
        for task in group:
            breakers = self.broken_by(task)
            if breakers is None:
                left.append(task)
            else:
                records += [self.skipped(task, defense, name) for defense, name in breakers.items()]
        return left, records

    def skipped(self, task: Task, defense: str, name: str) -> BenchmarkRecord:
        """The record of an image that an attack was not run on."""
        spec, threat, known = task.item.spec, task.item.threat, self.images[task.image]
        assert spec is not None and threat is not None  # clean images have nothing before them
        return BenchmarkRecord(
            image=task.image,
            key=known.key,
            label=known.label,
            label_is_prediction=known.label_is_prediction,
            item=task.item.name,
            attack=spec.name,
            access=spec.access,
            norm=threat.norm,
            eps=threat.spelled,
            eps_value=threat.eps,
            defense=defense,
            undefended=None,
            draws=(),
            broken_by=name,
        )
