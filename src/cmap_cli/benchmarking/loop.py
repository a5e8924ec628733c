"""The resumable loop of attacks and re-evaluations: one line of records.jsonl per image, attack and defence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmap_cli.benchmarking.attack import AttackOutcome, attack_images
from cmap_cli.benchmarking.campaign import Campaign, Item, Task
from cmap_cli.benchmarking.cascade import Cascade
from cmap_cli.benchmarking.cost import CostModel, forecast_of
from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.events import OnProgress
from cmap_cli.benchmarking.folder import ADVERSARIAL, BenchmarkFolder
from cmap_cli.benchmarking.watch import OutOfTimeError, Watch


def run_campaign(
    campaign: Campaign,
    folder: BenchmarkFolder,
    on_progress: OnProgress | None = None,
    *,
    costs: CostModel | None = None,
    deadline: float | None = None,
) -> int:
    """Do the tasks of the folder's shard that are not finished.

    Args:
        campaign: the benchmark.
        folder: folder for the records.
        on_progress: called with the progress at every call of a network.
        costs: times of the tasks, for the estimate of the time left.
        deadline: time by ``time.monotonic()`` at which the work ends; the current tasks are then not recorded.

    Returns:
        The number of tasks that are not done because of the deadline.

    Raises:
        OutOfSpaceError: the disk is full; the same call continues later.
        ImageError: an image cannot be read.
    """
    own = campaign.tasks(folder.shard)
    finished = folder.resume(campaign)
    remaining = [task for task in own if task.key not in finished]
    forecast = None if costs is None else forecast_of(costs, remaining)
    watch = Watch(campaign, len(own), len(own) - len(remaining), forecast, on_progress, deadline)
    cascade = Cascade(campaign)
    if campaign.cascades:
        cascade.learn(folder.all_records())
    try:
        with watch.watching():
            for group in groups(campaign, remaining):
                left, skipped = cascade.divide(group)
                if skipped:
                    folder.append(skipped)
                    watch.skip(group[0].item, len(group) - len(left))
                if left:
                    watch.begin(tuple(left))
                    records = do_tasks(campaign, folder, left, watch)
                    folder.append(records)
                    cascade.learn(records)
                    watch.finish()
    except OutOfTimeError:
        return watch.total - watch.done
    return 0


def groups(campaign: Campaign, tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
    """Groups of at most ``campaign.chunk`` tasks of the same item, in the order of their first images.

    In a cascade an attack on an image must come after all earlier attacks on it: the images are divided into chunks,
    and all items are done with one chunk before the next chunk.
    """
    size, order = campaign.chunk, {item: number for number, item in enumerate(campaign.items())}
    of_item: dict[tuple[int, Item], list[Task]] = {}
    chunk = {image: at // size for at, image in enumerate(sorted({task.image for task in tasks}))}
    for task in tasks:
        of_item.setdefault((chunk[task.image] if campaign.cascades else 0, task.item), []).append(task)
    cut = [
        (number, tuple(those[at : at + size]))
        for (number, _), those in of_item.items()
        for at in range(0, len(those), size)
    ]

    def place(numbered: tuple[int, tuple[Task, ...]]) -> tuple[int, int, int]:
        number, group = numbered
        first = 0 if campaign.cascades else group[0].image
        return number, first, order[group[0].item]

    return [group for _, group in sorted(cut, key=place)]


def do_tasks(campaign: Campaign, folder: BenchmarkFolder, group: Sequence[Task], watch: Watch) -> list[BenchmarkRecord]:
    """Attack a few images at once, write the results, and evaluate the defences on them."""
    item, images = group[0].item, [task.image for task in group]
    batch = campaign.dataset.select(images).batch(0, len(images))
    x, y = batch.x.to(campaign.device), batch.y.to(campaign.device)
    unlabelled = y < 0
    if bool(unlabelled.any()):
        y = torch.where(unlabelled, torch.tensor(predicted_classes(campaign.classifier.module, x)).to(y), y)
    began = time.perf_counter()
    if item.spec is None or item.threat is None:
        found = AttackOutcome("clean", x, torch.zeros(len(x), dtype=torch.bool))
    else:
        compare = images[0] < campaign.control_images  # a check needs no more
        found = attack_images(
            campaign.defenses, item.spec, item.threat, item.target, campaign.budget, x, y, watch.attack, compare=compare
        )
    seconds = (time.perf_counter() - began) / len(x)
    above = Path(ADVERSARIAL) / item.name
    files = [None if item.spec is None else above / f"{image:06d}.safetensors" for image in images]
    made = [
        {
            "image": images[row],
            "key": batch.keys[row],
            "label": int(y[row]),
            "label_is_prediction": bool(unlabelled[row]),
            **attack_fields(item, found, x, row),
            "seconds": round(seconds, 4),
            "file": None if file is None else file.as_posix(),
            "row": None if file is None else 0,
        }
        for row, file in enumerate(files)
    ]
    undefended = predicted_classes(campaign.classifier.module, found.x_adv)
    stored = {"x": x, "x_adv": found.x_adv, "y": y}
    records: list[BenchmarkRecord] = []
    for name in campaign.evaluated(item):
        draws, purified, votes = campaign.defenses.evaluate(name, found.x_adv, campaign.reevaluations, watch.evaluate)
        if purified is not None and (name == "cmap" or "purified" not in stored):
            stored["purified"] = purified
        records += [
            BenchmarkRecord(
                **made[row],
                defense=name,
                undefended=undefended[row],
                draws=tuple(draw[row] for draw in draws),
                votes=tuple(dict(vote_counts(draw[row])) for draw in votes if draw),
            )
            for row in range(len(x))
        ]
    for row, file in enumerate(files):
        if file is not None:
            folder.write_images(file, {name: tensor[row : row + 1] for name, tensor in stored.items()})
    return records


def vote_counts(votes: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The number of votes of each class that has any."""
    return ((str(label), count) for label, count in enumerate(votes) if count)


def attack_fields(item: Item, found: AttackOutcome, x: Tensor, row: int) -> dict[str, Any]:
    """The fields of a record that describe the attack and its result for one image."""
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


def predicted_classes(classifier: nn.Module, x: Tensor) -> list[int]:
    """The classes that a classifier predicts."""
    with torch.no_grad():
        classes: list[int] = classifier(x).argmax(-1).tolist()
    return classes
