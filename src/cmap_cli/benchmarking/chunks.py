"""The resumable loop of attacks and re-evaluations: one line of records.jsonl for each image, attack and defence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmap_cli.benchmarking.attack import AttackOutcome, attack_images
from cmap_cli.benchmarking.campaign import Campaign, Item
from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.folder import ADVERSARIAL, BenchmarkFolder
from cmap_cli.data.dataset import ImageBatch


def run_campaign(
    campaign: Campaign, folder: BenchmarkFolder, on_progress: Callable[[int, int], None] | None = None
) -> None:
    """Do what is not done yet of the folder's shard.

    Args:
        campaign: what.
        folder: where the records go.
        on_progress: called with the number of the shard's chunks that are done, those of earlier runs included, and
            of all its chunks.

    Raises:
        OutOfSpaceError: nothing more can be written; the same call goes on from there.
        ImageError: an image cannot be read.
    """
    own = campaign.work_of(folder.shard)
    done = folder.resume(campaign) & {(item.name, start) for item, start, _ in own}
    report = on_progress or (lambda done, total: None)
    report(len(done), len(own))
    batch, batch_start = None, -1
    for item, start, stop in own:
        if (item.name, start) in done:
            continue
        if batch is None or (start, len(batch.x)) != (batch_start, stop - start):
            batch, batch_start = campaign.dataset.batch(start, stop), start
        folder.append(list(do_chunk(campaign, folder, item, batch, start)))
        done.add((item.name, start))
        report(len(done), len(own))


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
        draws, purified, votes = campaign.defenses.evaluate(name, found.x_adv, campaign.reevaluations)
        if purified is not None and (name == "cmap" or "purified" not in stored):
            stored["purified"] = purified
        records += [
            BenchmarkRecord(
                **made[row],
                defense=name,
                undefended=undefended[row],
                draws=tuple(draw[row] for draw in draws),
                votes=tuple(dict(counted(draw[row])) for draw in votes if draw),
            )
            for row in range(len(x))
        ]
    if relative is not None:
        folder.write_images(relative, stored)
    yield from records


def counted(votes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The classes that have votes, and how many."""
    return ((str(label), count) for label, count in enumerate(votes) if count)


def described(item: Item, found: AttackOutcome, x: Tensor, row: int) -> dict[str, Any]:
    """What a record says of an item and of what its attack made of one image."""
    here = slice(row, row + 1)
    about: dict[str, Any] = {
        "item": item.name,
        "method": found.method,
        "gradient": found.gradient,
        "flags": found.flags,
    }
    about["l2"] = float((found.x_adv[row].double() - x[row].double()).norm())
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
