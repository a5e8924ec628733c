"""What an attack cost, and which random numbers a defence drew under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from cmap_cli.core.types import ConsistencyModel, num_classes

T = TypeVar("T")


@dataclass(slots=True)
class Passes:
    """Images that went through a defence, counted as they go; one is a whole purification with its vote.

    Attributes:
        forward: images scored.
        backward: images that a gradient was computed for.
    """

    forward: int = 0
    backward: int = 0

    def count(self, scores: Tensor) -> Tensor:
        """Count the rows of scores (B, classes), and once more each time a gradient comes back; returns them."""
        self.forward += len(scores)
        if scores.requires_grad:

            def came_back(_: Tensor) -> None:
                self.backward += len(scores)

            scores.register_hook(came_back)  # type: ignore[no-untyped-call]
        return scores


class RowSeeds:
    """The random numbers of a defence under attack: fresh ones for every row of every call, or frozen ones.

    Each image under attack has a generator that its fresh seeds come from, so they do not depend on the others.

    Args:
        seed: of the generator until :meth:`reseed` gives each image its own.
    """

    def __init__(self, seed: int = 0) -> None:
        self.sources = [Generator().manual_seed(seed)]
        self.frozen: tuple[int, ...] | None = None
        self.rows: tuple[int, ...] | None = None

    def reseed(self, seeds: Sequence[int]) -> None:
        """Start the fresh seeds again, one generator for each image; a call with other rows takes the first one."""
        self.sources = [Generator().manual_seed(seed) for seed in seeds]
        self.rows = None

    def attend(self, rows: Sequence[int] | None) -> None:
        """The next calls get these rows of the images under attack, each with its own generator; None for all."""
        self.rows = None if rows is None else tuple(rows)

    def freeze(self, seeds: Sequence[int] | None) -> None:
        """Use these seeds at every call, one per row or one for all; None for fresh ones again."""
        self.frozen = None if seeds is None else tuple(seeds)

    def generators(self, rows: int) -> list[Generator]:
        """A CPU generator for each row.

        Raises:
            ValueError: the frozen seeds are neither one nor as many as rows.
        """
        if self.frozen is None:
            sources = self._of_rows(self.sources)
            sources = sources if len(sources) == rows else self.sources[:1] * rows
            seeds = [int(torch.randint(1 << 62, (), generator=source)) for source in sources]
        elif len(frozen := self._of_rows(self.frozen)) in (1, rows):
            seeds = list(frozen) * (rows // len(frozen))
        else:
            raise ValueError(f"{len(self.frozen)} frozen seeds for {rows} images")
        return [Generator().manual_seed(seed) for seed in seeds]

    def _of_rows(self, each: Sequence[T]) -> Sequence[T]:
        """What belongs to the rows that are attended to; one for all stays one."""
        return each if self.rows is None or len(each) == 1 else [each[row] for row in self.rows]


def class_condition(model: ConsistencyModel, classifier: nn.Module, x: Tensor) -> Tensor | None:
    """The classes that a class-conditional model is given for images x, (B,): the classifier's predictions on them.

    None for other models. A prediction is constant around almost every image, so nothing of the gradient is lost.
    """
    if not num_classes(model):
        return None
    with torch.no_grad():
        labels: Tensor = classifier(x).argmax(-1)
    return labels


@runtime_checkable
class HasCandidates(Protocol):
    """A defence that an attacker can run in two parts: the purified candidates, and the scores of these.

    Attributes:
        passes: images scored and differentiated so far; the code that runs the parts counts them.
    """

    passes: Passes

    def candidates(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) in [0, 1] and a seed for each -> (B, K, C, H, W), with the defence's gradient."""
        ...

    def vote_scores(self, candidates: Tensor) -> Tensor:
        """Candidates (B, K, C, H, W) -> scores (B, classes)."""
        ...
