"""The resumable loop of attacks and re-evaluations: one line of records.jsonl for each image, attack and defence."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.attacking import Budget, Defenses, Outcome, attack_images
from cmap_cli.choices import Defense
from cmap_cli.classifiers import LoadedClassifier
from cmap_cli.datasets import Dataset, ImageBatch
from cmap_cli.plan import LARGE, AttackSpec, controls, large_control
from cmap_cli.results import Record, refuse_other_settings, write_atomically, writing_error
from cmap_cli.threat import ThreatModel, parse_threat

SETTINGS_FILE = "benchmark.json"
RECORDS_FILE = "records.jsonl"
ADVERSARIAL = "adversarial"
SCHEMA = "cmap.benchmark/1"
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
    target: Defense | None

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
            for spec in (*self.specs, *(controls(self.specs) if self.with_controls else ())):
                yield from self.items_of(spec, threat)
        large = large_control(self.specs) if self.with_controls else None
        if large is not None:
            norm = self.threats[0].norm
            yield from self.items_of(large, parse_threat(norm, LARGE[norm]))

    def items_of(self, spec: AttackSpec, threat: ThreatModel) -> Iterator[Item]:
        """One item, or one for each defence that the attack has to go through."""
        if spec.regardless:
            yield Item(spec, threat, None)
        else:
            yield from (Item(spec, threat, name) for name in self.defenses.names if spec.applies_to(name))

    def chunks(self, item: Item) -> Iterator[tuple[int, int]]:
        """(start, stop) of the images that an item is done with: all of them, a few for a control."""
        control = item.spec is not None and item.spec.control
        count = min(len(self.dataset), CONTROL_IMAGES) if control else len(self.dataset)
        return ((start, min(start + self.chunk, count)) for start in range(0, count, self.chunk))

    def evaluated(self, item: Item) -> list[Defense]:
        """The defences that are shown what an item makes."""
        if item.target is not None:
            return [item.target]
        return [name for name in self.defenses.names if item.spec is None or item.spec.applies_to(name)]

    def work(self) -> list[tuple[Item, int, int]]:
        """Everything there is to do: all items of the first chunk, then of the next."""
        listed = [(item, start, stop) for item in self.items() for start, stop in self.chunks(item)]
        return sorted(listed, key=lambda each: each[1])


class BenchmarkFolder:
    """benchmark.json (settings, provenance) and records.jsonl of a run.

    Records of a chunk are appended together after its adversarial images are in place, so after a kill the file never
    claims too much; what is incomplete is taken out and done again.

    Args:
        folder: the output folder.
        settings: what determines the records; a run goes on only with equal ones.
        provenance: what is known besides, kept from the first start.
        overwrite: forget what is there.

    Raises:
        SettingsMismatchError: the folder holds records of other settings.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], provenance: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self.folder = folder
        self.records_path = folder / RECORDS_FILE
        settings_path = folder / SETTINGS_FILE
        folder.mkdir(parents=True, exist_ok=True)
        if settings_path.exists() and not overwrite:
            refuse_other_settings(settings_path, settings)
            return
        self.records_path.unlink(missing_ok=True)
        shutil.rmtree(folder / ADVERSARIAL, ignore_errors=True)
        document = {"schema": SCHEMA, "settings": settings, "provenance": provenance}
        write_atomically(settings_path, json.dumps(document, indent=2) + "\n")

    def resume(self, campaign: Campaign) -> set[tuple[str, int]]:
        """The (item, first image) of every chunk whose records are all there; others are taken out of the file."""
        expected = {
            (item.name, start): (stop - start) * len(campaign.evaluated(item)) for item, start, stop in campaign.work()
        }
        found = Counter(
            (record["item"], record["image"] // campaign.chunk * campaign.chunk) for record in self.records()
        )
        done = {key for key, count in expected.items() if found[key] == count}
        if self.records_path.exists():  # also when nothing is incomplete: a half line may be at its end
            self.keep(done, campaign.chunk)
        return done

    def keep(self, done: set[tuple[str, int]], chunk: int) -> None:
        """Rewrite the records without those of incomplete chunks."""
        temporary = self.records_path.with_name(f".{RECORDS_FILE}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for record in self.records():
                if (record["item"], record["image"] // chunk * chunk) in done:
                    file.write(json.dumps(record) + "\n")
        temporary.replace(self.records_path)

    def records(self) -> Iterator[Record]:
        """The records in the order in which they were made; a line that a kill cut short is left out."""
        if not self.records_path.exists():
            return
        with self.records_path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    def append(self, records: Sequence[Record]) -> None:
        """Add the records of a chunk (OutOfSpaceError when the disk is full)."""
        try:
            with self.records_path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(record, allow_nan=False) + "\n" for record in records))
        except OSError as error:
            raise writing_error(self.records_path, error) from error

    def write_images(self, relative: Path, tensors: dict[str, Tensor]) -> None:
        """Write a chunk's images losslessly (OutOfSpaceError when the disk is full)."""
        path = self.folder / relative
        temporary = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary)
            temporary.replace(path)
        except OSError as error:
            raise writing_error(path, error) from error


def run_campaign(campaign: Campaign, folder: BenchmarkFolder, on_chunk: Callable[[int], None]) -> None:
    """Do what is not done yet.

    Args:
        campaign: what.
        folder: where the records go.
        on_chunk: told how many chunks are done, those of earlier runs included.

    Raises:
        OutOfSpaceError: nothing more can be written; the same call goes on from there.
        ImageError: an image cannot be read.
    """
    done = folder.resume(campaign)
    on_chunk(len(done))
    batch, batch_start = None, -1
    for item, start, stop in campaign.work():
        if (item.name, start) in done:
            continue
        if batch is None or (start, len(batch.x)) != (batch_start, stop - start):
            batch, batch_start = campaign.dataset.batch(start, stop), start
        folder.append(list(do_chunk(campaign, folder, item, batch, start)))
        done.add((item.name, start))
        on_chunk(len(done))


def do_chunk(
    campaign: Campaign, folder: BenchmarkFolder, item: Item, batch: ImageBatch, start: int
) -> Iterator[Record]:
    """Attack a chunk of images, write what came out, ask the defences about it."""
    x, y = batch.x.to(campaign.device), batch.y.to(campaign.device)
    unlabelled = y < 0
    if bool(unlabelled.any()):
        y = torch.where(unlabelled, torch.tensor(predict(campaign.classifier.module, x)).to(y), y)
    began = time.perf_counter()
    if item.spec is None or item.threat is None:
        found, relative = Outcome("clean", x, torch.zeros(len(x), dtype=torch.bool)), None
    else:
        found = attack_images(campaign.defenses, item.spec, item.threat, item.target, campaign.budget, x, y)
        relative = Path(ADVERSARIAL) / item.name / f"{start:06d}.safetensors"
    seconds = (time.perf_counter() - began) / len(x)
    made = [
        {
            "image": start + row,
            "key": batch.keys[row],
            "label": int(y[row]),
            "label_is_prediction": bool(unlabelled[row]),
            **described(item, found, x, row),
            "seconds": round(seconds, 4),
            "file": None if relative is None else relative.as_posix(),
            "row": None if relative is None else row,
        }
        for row in range(len(x))
    ]
    undefended = predict(campaign.classifier.module, found.x_adv)
    stored = {"x": x, "x_adv": found.x_adv, "y": y}
    records = []
    for name in campaign.evaluated(item):
        draws, purified = campaign.defenses.evaluate(name, found.x_adv, campaign.reevaluations)
        if purified is not None and (name == "cmap" or "purified" not in stored):
            stored["purified"] = purified
        records += [
            {**made[row], "defense": name, "undefended": undefended[row], "draws": [draw[row] for draw in draws]}
            for row in range(len(x))
        ]
    if relative is not None:
        folder.write_images(relative, stored)
    yield from records


def described(item: Item, found: Outcome, x: Tensor, row: int) -> Record:
    """What a record says of an item and of what its attack made of one image."""
    here = slice(row, row + 1)
    about: Record = {"item": item.name, "method": found.method, "gradient": found.gradient, "flags": list(found.flags)}
    about |= {"forward": found.passes.forward / len(x), "backward": found.passes.backward / len(x)}
    if item.spec is None or item.threat is None:
        absent = dict.fromkeys(("access", "norm", "eps", "eps_value"))
        nothing = {"control": False, "distance": 0.0, "reported_success": False, "unchanged": False}
        return about | {"attack": "clean"} | absent | nothing
    return about | {
        "attack": item.spec.name,
        "access": item.spec.access,
        "norm": item.threat.norm,
        "eps": item.threat.spelled,
        "eps_value": item.threat.eps,
        "control": item.spec.control,
        "distance": float(item.threat.distance(found.x_adv[here], x[here])),
        "reported_success": bool(found.reported_success[row]),
        "unchanged": bool((found.x_adv[row] == x[row]).all()),
    }


def predict(classifier: nn.Module, x: Tensor) -> list[int]:
    """The classes that a classifier sees."""
    with torch.no_grad():
        classes: list[int] = classifier(x).argmax(-1).tolist()
    return classes
