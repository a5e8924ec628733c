"""The resumable loop of attacks and re-evaluations: one line of records.jsonl for each image, attack and defence."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.benchmarking.attack import AttackOutcome, attack_images
from cmap_cli.benchmarking.campaign import Campaign, Item
from cmap_cli.benchmarking.documents import BENCHMARK_SCHEMA, BenchmarkRecord
from cmap_cli.data.dataset import ImageBatch
from cmap_cli.files import write_with
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import MANIFEST, RECORDS, SETTINGS_FILE, claim_settings
from cmap_cli.runs.shard import WHOLE, Shard

ADVERSARIAL = "adversarial"


class BenchmarkFolder:
    """benchmark.json (settings, provenance) and records.jsonl of a run.

    Records of a chunk are appended together after its adversarial images are in place, so after a kill the file never
    claims too much; what is incomplete is taken out and done again. Several processes can work on one folder, each with
    a shard and records of its own; what any of them has done is done. Use it in a ``with`` statement.

    Args:
        folder: the output folder.
        settings: what determines the records; a run goes on only with equal ones.
        provenance: what is known besides, kept from the first start.
        overwrite: forget what is there, of all shards.
        shard: whose records are written.

    Raises:
        SettingsMismatchError: the folder holds records of other settings.
        CmapError: another process is writing them.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
        shard: Shard = WHOLE,
    ) -> None:
        self.folder = folder
        self.shard = shard
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder, RECORDS, shard)
        self.journal.open()
        try:
            if overwrite:
                forget_parts(self.journal, MANIFEST)
                shutil.rmtree(folder / ADVERSARIAL, ignore_errors=True)
            document = {"schema": BENCHMARK_SCHEMA, "settings": settings, "provenance": provenance}
            claim_settings(folder / SETTINGS_FILE, document, overwrite=overwrite)
        except BaseException:
            self.journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def resume(self, campaign: Campaign) -> set[tuple[str, int]]:
        """The (item, first image) of every chunk whose records are all there, in the file of any shard.

        The others are taken out of the file of this process.
        """
        expected = {
            (item.name, start): (stop - start) * len(campaign.evaluated(item)) for item, start, stop in campaign.work()
        }
        complete = set()
        for path in self.journal.paths():
            found = Counter(chunk_of(record, campaign.chunk) for record in read_lines(path, BenchmarkRecord))
            here = {key for key, count in expected.items() if found[key] == count}
            if path == self.journal.path:  # also when nothing is incomplete: a half line may be at its end
                self.journal.rewrite(record for record in self.records() if chunk_of(record, campaign.chunk) in here)
            complete |= here
        return complete

    def records(self) -> Iterator[BenchmarkRecord]:
        """The records of this process in the order in which they were made."""
        return self.journal.read(BenchmarkRecord)

    def append(self, records: Sequence[BenchmarkRecord]) -> None:
        """Add the records of a chunk (OutOfSpaceError when the disk is full)."""
        self.journal.append(records)

    def write_images(self, relative: Path, tensors: dict[str, Tensor]) -> None:
        """Write a chunk's images losslessly (OutOfSpaceError when the disk is full)."""
        stored = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_with(self.folder / relative, lambda temporary: save_file(stored, temporary))


def chunk_of(record: BenchmarkRecord, chunk: int) -> tuple[str, int]:
    """(item, first image) of the chunk that a record belongs to."""
    return record.item, record.image // chunk * chunk


def run_campaign(campaign: Campaign, folder: BenchmarkFolder, on_chunk: Callable[[int], None]) -> None:
    """Do what is not done yet of the folder's shard.

    Args:
        campaign: what.
        folder: where the records go.
        on_chunk: told how many of the shard's chunks are done, those of earlier runs included.

    Raises:
        OutOfSpaceError: nothing more can be written; the same call goes on from there.
        ImageError: an image cannot be read.
    """
    own = campaign.share(folder.shard)
    done = folder.resume(campaign) & {(item.name, start) for item, start, _ in own}
    on_chunk(len(done))
    batch, batch_start = None, -1
    for item, start, stop in own:
        if (item.name, start) in done:
            continue
        if batch is None or (start, len(batch.x)) != (batch_start, stop - start):
            batch, batch_start = campaign.dataset.batch(start, stop), start
        folder.append(list(do_chunk(campaign, folder, item, batch, start)))
        done.add((item.name, start))
        on_chunk(len(done))


def do_chunk(
    campaign: Campaign, folder: BenchmarkFolder, item: Item, batch: ImageBatch, start: int
) -> Iterator[BenchmarkRecord]:
    """Attack a chunk of images, write what came out, ask the defences about it."""
    x, y = batch.x.to(campaign.device), batch.y.to(campaign.device)
    unlabelled = y < 0
    if bool(unlabelled.any()):
        y = torch.where(unlabelled, torch.tensor(predict(campaign.classifier.module, x)).to(y), y)
    began = time.perf_counter()
    if item.spec is None or item.threat is None:
        found, relative = AttackOutcome("clean", x, torch.zeros(len(x), dtype=torch.bool)), None
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
    records: list[BenchmarkRecord] = []
    for name in campaign.evaluated(item):
        draws, purified = campaign.defenses.evaluate(name, found.x_adv, campaign.reevaluations)
        if purified is not None and (name == "cmap" or "purified" not in stored):
            stored["purified"] = purified
        records += [
            BenchmarkRecord(
                **made[row], defense=name, undefended=undefended[row], draws=tuple(draw[row] for draw in draws)
            )
            for row in range(len(x))
        ]
    if relative is not None:
        folder.write_images(relative, stored)
    yield from records


def described(item: Item, found: AttackOutcome, x: Tensor, row: int) -> dict[str, Any]:
    """What a record says of an item and of what its attack made of one image."""
    here = slice(row, row + 1)
    about: dict[str, Any] = {
        "item": item.name,
        "method": found.method,
        "gradient": found.gradient,
        "flags": found.flags,
    }
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
