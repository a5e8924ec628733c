"""What a benchmark will take: a few passes are timed, the rest is arithmetic."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.benchmarking.campaign import Campaign, Item

THOROUGH_IMAGES = 500
THOROUGH_DRAWS = 20
THOROUGH = Budget(steps=100, restarts=1, eot=20, queries=5000)
TIMED_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, estimated.

    Attributes:
        seconds: of the run as it is set.
        thorough: of 500 images, 100 steps, 20 draws in every gradient, 5000 queries and 20 re-evaluations.
    """

    seconds: float
    thorough: float


def measure_cost(campaign: Campaign) -> Cost:
    """Time one evaluation of each defence and one gradient of each kind of attack on two images, and add up."""
    batch = campaign.dataset.batch(0, TIMED_IMAGES)
    x, y = batch.x.to(campaign.device), batch.y.clamp(min=0).to(campaign.device)
    evaluation = {}
    for name in campaign.defenses.names:
        began = time.perf_counter()
        campaign.defenses.evaluate(name, x, 1)
        evaluation[name] = (time.perf_counter() - began) / len(x)
    timed: dict[tuple[object, object], tuple[float, float]] = {}
    seconds = thorough = 0.0
    for item in campaign.items():
        count = sum(stop - start for start, stop in campaign.chunks(item))
        many = THOROUGH_IMAGES if count == len(campaign.dataset) else count
        for name in campaign.evaluated(item):
            seconds += count * campaign.reevaluations * evaluation[name]
            thorough += many * THOROUGH_DRAWS * evaluation[name]
        if item.spec is None:
            continue
        key = (item.spec.access, item.target)
        if key not in timed:
            timed[key] = time_passes(campaign, item, x, y)
        forward, both = timed[key]
        for budget, images in ((campaign.budget, count), (THOROUGH, many)):
            passes = ATTACKS[item.spec.name].plan(budget, item.spec.access)
            cost = images * ((passes.forward - passes.backward) * forward + passes.backward * both)
            if budget is THOROUGH:
                thorough += cost
            else:
                seconds += cost
    return Cost(seconds, thorough)


def time_passes(campaign: Campaign, item: Item, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Seconds an image of the attacked module: forward alone, and forward with backward."""
    assert item.spec is not None
    model = campaign.defenses.target(
        item.spec.access, item.target, unroll=campaign.budget.unroll, smoothing=campaign.budget.smoothing
    ).eval()
    with torch.no_grad():
        model(x)
        began = time.perf_counter()
        float(model(x).sum())
    forward = (time.perf_counter() - began) / len(x)
    if item.spec.access in ("black-box", "adaptive"):
        return forward, forward
    began = time.perf_counter()
    with torch.enable_grad():
        inside = x.clone().requires_grad_()
        float(torch.autograd.grad(model(inside).gather(1, y[:, None]).sum(), inside)[0].sum())
    return forward, (time.perf_counter() - began) / len(x)
