"""Estimates the time of a benchmark: a few short passes are timed, the rest is computed from them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cmap_cli.attacks.table import ATTACKS, Budget
from cmap_cli.benchmarking.campaign import Campaign, Item, Task
from cmap_cli.choices import Access
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.runs.forecast import Forecast, Span, measured

THOROUGH_IMAGES = 500
THOROUGH_DRAWS = 20
THOROUGH = Budget(steps=100, restarts=1, eot=20, queries=5000)
SLOW = 2.0
"""A first pass that takes more seconds than this is not timed again."""
ENOUGH = 0.5
"""Seconds of passes of one kind after which a third and fourth are not timed."""
MOST = 4
"""Passes that are timed at most."""
FURTHER_STEPS = 3
"""Number of further optimisation steps that are timed; more steps make the mean less sensitive to disturbances."""
WITHOUT_GRADIENTS: tuple[Access, ...] = ("black-box", "adaptive")


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated times of a run, in seconds.

    Attributes:
        remaining: time of the tasks that are not finished.
        thorough: time with 500 images, 100 steps, 20 draws per gradient, 5000 queries and 20 re-evaluations.
    """

    remaining: Span
    thorough: Span


@dataclass(frozen=True, slots=True)
class PassSeconds:
    """Seconds per image of one pass of a module whose purification takes one step, and of each further step.

    Attributes:
        first: seconds with one step.
        step: seconds of a further step.
    """

    first: float
    step: float

    def at(self, steps: int) -> float:
        """Seconds per image with this number of steps."""
        return self.first + max(0, steps - 1) * self.step


@dataclass
class CostModel:
    """The seconds of every task of a campaign; each kind of pass is timed when it is first needed.

    A pass with optimisation steps is timed with one step and with a few more, and extrapolated to the real number, so
    that timing takes a few seconds for any number of steps.

    Attributes:
        campaign: the benchmark; images and budgets may change later, see :meth:`task`.
    """

    campaign: Campaign
    timed: dict[tuple[str, ...], PassSeconds] = field(default_factory=dict)

    def task(self, item: Item, budget: Budget, reevaluations: int) -> Span:
        """Seconds of one image under one attack, or clean, with its evaluations."""
        total = measured(self.evaluation("none"))  # the bare classifier looks at every image
        for name in self.campaign.evaluated(item):
            draws = reevaluations if DEFENSES[name].is_randomised else 1
            total += measured(draws * self.evaluation(name))
        if item.spec is None:
            return total
        passes = ATTACKS[item.spec.name].plan(budget, item.spec.access)
        forward, both = self.passes(item, budget.unroll)
        seconds = max(0, passes.forward - passes.backward) * forward + passes.backward * both
        if passes.steps:
            seconds += passes.steps * self.time("evaluation", "cmap").step
        total += measured(seconds, passes.least)
        skips = self.campaign.earlier(item, list(self.campaign.items()))  # maybe all images
        return Span(0.0, total.high) if skips else total

    def evaluation(self, defense: str) -> float:
        """Seconds of one draw of a deployed defence."""
        return self.time("evaluation", defense).at(self.steps)

    def passes(self, item: Item, unroll: int | None) -> tuple[float, float]:
        """Seconds of the module that an item attacks: forward, and forward with the gradient."""
        assert item.spec is not None
        access, target = item.spec.access, item.target or ""
        one = self.time("evaluation", target) if target else self.time("forward", access, target)
        forward = one.at(self.steps)
        if access in WITHOUT_GRADIENTS or not ATTACKS[item.spec.name].needs_gradients:
            return forward, forward
        swept = self.steps if unroll is None else min(unroll, self.steps)
        return forward, self.time("gradient", access, target).at(swept) + (self.steps - swept) * one.step

    @property
    def steps(self) -> int:
        """Number of optimisation steps of the purification."""
        return self.campaign.defenses.purifier.config.steps

    def time(self, kind: str, *where: str) -> PassSeconds:
        """Seconds of one pass, timed once per object."""
        key = (kind, *where)
        if key not in self.timed:
            batch = self.campaign.dataset.batch(0, min(self.campaign.chunk, len(self.campaign.dataset)))
            x, y = batch.x.to(self.campaign.device), batch.y.clamp(min=0).to(self.campaign.device)
            one = timed_pass(self.pass_of(kind, where, x, y, 1), len(x))
            further = min(self.steps - 1, FURTHER_STEPS)
            if not self.optimises(where[-1]) or further < 1:
                step = 0.0
            elif kind == "gradient" and where[0] == "bpda":  # no gradient goes through the steps
                step = self.time("evaluation", where[1]).step
            else:
                step = (timed_pass(self.pass_of(kind, where, x, y, 1 + further), len(x)) - one) / further
            self.timed[key] = PassSeconds(one, max(0.0, step))
        return self.timed[key]

    def optimises(self, defense: str) -> bool:
        """Whether a pass through this defence takes optimisation steps."""
        denoises = self.campaign.defenses.purifier.config.method == "denoise"
        return not denoises and defense in DEFENSES and DEFENSES[defense].optimises

    def pass_of(self, kind: str, where: tuple[str, ...], x: Tensor, y: Tensor, steps: int) -> Callable[[], object]:
        """What is timed."""
        defenses = with_steps(self.campaign.defenses, steps)
        if kind == "evaluation":
            return lambda: defenses.evaluate(where[0], x, 1)
        access, target = where
        model = defenses.target(access, target or None).eval()  # type: ignore[arg-type]
        return (lambda: score(model, x)) if kind == "forward" else (lambda: differentiate(model, x, y))


def with_steps(defenses: Defenses, steps: int) -> Defenses:
    """The defences with another number of optimisation steps, if they have any."""
    purifier = defenses.purifier
    if purifier.config.method == "denoise":
        return defenses
    return replace(defenses, purifier=replace(purifier, config=dataclasses.replace(purifier.config, steps=steps)))


def timed_pass(run: Callable[[], object], images: int) -> float:
    """Seconds per image of the quickest of several passes.

    The first may allocate memory, start threads and choose kernels, and on busy cores any may have to wait.
    """
    seconds: list[float] = []
    while len(seconds) < MOST:
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
        if seconds[0] > SLOW or (len(seconds) > 1 and sum(seconds) > ENOUGH):
            break
    return min(seconds) / images


@torch.no_grad()
def score(model: torch.nn.Module, x: Tensor) -> float:
    """Scores; reading them makes an accelerator finish."""
    return float(model(x).sum())


@torch.enable_grad()
def differentiate(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """A gradient with respect to the images."""
    inside = x.clone().requires_grad_()
    return float(torch.autograd.grad(model(inside).gather(1, y[:, None]).sum(), inside)[0].sum())


def forecast_of(costs: CostModel, tasks: Iterable[Task]) -> Forecast:
    """A forecast for tasks, by the names of their items."""
    campaign, items = costs.campaign, {}
    counts: Counter[str] = Counter()
    for task in tasks:
        items[task.item.name] = task.item
        counts[task.item.name] += 1
    spans = {name: costs.task(item, campaign.budget, campaign.reevaluations) for name, item in items.items()}
    return Forecast(spans, counts)


def thorough_span(costs: CostModel) -> Span:
    """The time of a thorough run of the same attacks."""
    campaign, total = costs.campaign, Span()
    for item in campaign.items():
        count = len(campaign.images(item))
        many = THOROUGH_IMAGES if count == len(campaign.dataset) else count
        total += costs.task(item, THOROUGH, THOROUGH_DRAWS) * many
    return total
