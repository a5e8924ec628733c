"""Parts that all defences share: the count of passes, and the random numbers under attack."""

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
    """Counts of images that went through a defence; a purification with its vote counts once.

    Attributes:
        forward: number of images that were scored.
        backward: number of images that a gradient was computed for.
    """

    forward: int = 0
    backward: int = 0

    def count(self, scores: Tensor) -> Tensor:
        """Count the rows of scores (B, classes), and again for each gradient through them; returns the scores."""
        self.forward += len(scores)
        if scores.requires_grad:

            def came_back(_: Tensor) -> None:
                self.backward += len(scores)

            scores.register_hook(came_back)  # type: ignore[no-untyped-call]
        return scores


class RowSeeds:
    """The random numbers of a defence under attack: fresh seeds for every row of every call, or frozen seeds.

    Each attacked image has a generator that draws its fresh seeds, so they do not depend on the other images.

    Args:
        seed: seed of the one generator that is used until :meth:`reseed` sets one per image.
    """

    def __init__(self, seed: int = 0) -> None:
        self.sources = [Generator().manual_seed(seed)]
        self.frozen: tuple[int, ...] | None = None
        self.rows: tuple[int, ...] | None = None

    def reseed(self, seeds: Sequence[int]) -> None:
        """Restart the fresh seeds, with one generator per image; a call with another number of rows uses the first."""
        self.sources = [Generator().manual_seed(seed) for seed in seeds]
        self.rows = None

    def attend(self, rows: Sequence[int] | None) -> None:
        """The next calls get these rows of the attacked images, each with its own generator; None for all rows."""
        self.rows = None if rows is None else tuple(rows)

    def freeze(self, seeds: Sequence[int] | None) -> None:
        """Use these seeds in every call, one per row or one for all rows; None for fresh seeds again."""
        self.frozen = None if seeds is None else tuple(seeds)

    def generators(self, rows: int) -> list[Generator]:
        """A CPU generator for each row.

        Raises:
            ValueError: the number of frozen seeds is neither 1 nor the number of rows.
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
        """The items of the rows set by :meth:`attend`; a single item for all rows stays single."""
        return each if self.rows is None or len(each) == 1 else [each[row] for row in self.rows]


def class_condition(model: ConsistencyModel, classifier: nn.Module, x: Tensor) -> Tensor | None:
    """The classes that a class-conditional model receives for images x, (B,): the classifier's predictions.

    None for other models. The prediction is constant in a neighbourhood of almost every image: the gradient is exact.
    """
    if not num_classes(model):
        return None
    with torch.no_grad():
        labels: Tensor = classifier(x).argmax(-1)
    return labels


@runtime_checkable
class HasCandidates(Protocol):
    """A defence that an attacker can run in two parts: computing purified candidates, and scoring them.

    Attributes:
        passes: counts of images so far; the caller of the two parts updates them.
    """

    passes: Passes

    def candidates(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        """Images (B, C, H, W) in [0, 1] and a seed for each -> (B, K, C, H, W), with the defence's gradient."""
        ...

    def vote_scores(self, candidates: Tensor) -> Tensor:
        """Candidates (B, K, C, H, W) -> scores (B, classes)."""
        ...
