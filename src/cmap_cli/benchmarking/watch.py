"""Reports the progress of a benchmark (attack, image, pass, step), and ends it when its time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.benchmarking.campaign import Campaign, Item, Task
from cmap_cli.benchmarking.events import BenchmarkProgress, OnProgress
from cmap_cli.defenses.base import Passes
from cmap_cli.defenses.deployed import AttackedModule
from cmap_cli.runs.forecast import Forecast, Span


class OutOfTimeError(Exception):
    """The time of a run is over."""


@dataclass
class Watch:
    """Reports progress to ``on_progress`` at the calls of the networks.

    Attributes:
        campaign: the benchmark.
        total: number of tasks of this process.
        done: number of finished tasks.
        forecast: forecast of the remaining tasks; None without ``on_progress``.
        on_progress: called at every call of a network.
        deadline: time by ``time.monotonic()`` at which the run ends; None for no limit.
    """

    campaign: Campaign
    total: int
    done: int
    forecast: Forecast | None = None
    on_progress: OnProgress | None = None
    deadline: float | None = None
    group: tuple[Task, ...] = ()
    stage: str = "attack"
    passes: Passes = field(default_factory=Passes)
    evaluations: int = 0
    planned: int = 0
    step: int = 0
    seen: int = -1
    began: float = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context, report calls of the consistency model if it is a torch module."""
        model = self.campaign.defenses.purifier.model
        hook = model.register_forward_hook(lambda *_: self.tick()) if isinstance(model, nn.Module) else None
        try:
            self.tell()
            yield
        finally:
            if hook is not None:
                hook.remove()

    @property
    def left(self) -> Span:
        """The time of the rest, less the time already spent on the current tasks."""
        if self.forecast is None:
            return Span()
        now, left = time.monotonic(), self.forecast.left()
        spent = now - self.began if self.group else 0.0
        rest = Span(max(0.0, left.low - spent), max(0.0, left.high - spent))
        return rest if self.deadline is None else rest.within(max(0.0, self.deadline - now))

    def begin(self, group: tuple[Task, ...]) -> None:
        """Start tasks of one item that are attacked together (OutOfTimeError if they would end too late)."""
        item = group[0].item
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0 or (self.forecast is not None and self.forecast.task(item.name).low * len(group) > left):
                raise OutOfTimeError
        spec = item.spec
        self.group, self.stage, self.passes, self.step, self.seen = group, "attack", Passes(), 0, -1
        self.planned = 0 if spec is None else ATTACKS[spec.name].plan(self.campaign.budget, spec.access).forward
        self.began = time.monotonic()

    def attack(self, target: AttackedModule) -> None:
        """Report the calls of this module, which is now attacked."""
        self.passes = target.passes
        target.eval().register_forward_hook(lambda *_: self.tick(model=False))

    def evaluate(self, number: int, draws: int) -> None:
        """Report that evaluation ``number`` of ``draws`` begins."""
        self.stage, self.evaluations, self.planned, self.step = "evaluation", number, draws, 0
        self.tell()

    def skip(self, item: Item, count: int) -> None:
        """Count tasks that are recorded without running the attack."""
        if self.forecast is not None:
            self.forecast.finish(item.name, 0.0, count)
        self.done += count
        self.tell()

    def finish(self) -> None:
        """Count the current tasks as finished."""
        if self.forecast is not None:
            seconds = time.monotonic() - self.began
            self.forecast.finish(self.group[0].item.name, seconds, len(self.group))
        self.done += len(self.group)
        self.group = ()
        self.tell()

    def tick(self, *, model: bool = True) -> None:
        """Report a call of a network (OutOfTimeError if the time is over)."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError
        if self.passes.forward != self.seen:
            self.seen, self.step = self.passes.forward, 0
        self.step += model
        self.tell()

    def tell(self) -> None:
        """Call ``on_progress`` with the current progress."""
        if self.on_progress is None:
            return
        if not self.group:
            self.on_progress(BenchmarkProgress(self.done, self.total, self.left))
            return
        first, images = self.group[0], len(self.group)
        passes = self.passes.forward // images if self.stage == "attack" else self.evaluations
        self.on_progress(
            BenchmarkProgress(
                self.done,
                self.total,
                self.left,
                item=first.item.title,
                image=first.image + 1,
                images=images,
                stage=self.stage,
                passes=passes,
                planned=self.planned,
                step=self.step,
                steps=self.campaign.defenses.purifier.config.steps,
            )
        )
