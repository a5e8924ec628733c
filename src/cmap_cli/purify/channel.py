"""Hands work from one thread to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")
TICK = 0.5


class Closed(Exception):  # noqa: N818 - no error: how a thread learns that it can stop
    """Nothing more is taken."""


class Channel(Generic[T]):
    """A queue of bounded weight that either side can close.

    Args:
        capacity: an item waits to be let in while those inside weigh as much or more; so there is never more inside
            than the capacity and one item.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[tuple[T, int]] = deque()
        self.weight = 0
        self.closed = False
        self.changed = Condition()

    def put(self, item: T, weight: int = 1) -> None:
        """Hand over an item; waits for room (Closed when there will be none)."""
        with self.changed:
            while self.weight >= self.capacity and not self.closed:
                self.changed.wait(TICK)  # a wait without end could not be interrupted on Windows
            if self.closed:
                raise Closed
            self.items.append((item, weight))
            self.weight += weight
            self.changed.notify_all()

    def close(self, *, drop: bool = False) -> None:
        """Let nothing more in; what is inside can still be taken, unless it is dropped."""
        with self.changed:
            self.closed = True
            if drop:
                self.items.clear()
            self.changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """What is handed over, until the channel is closed and empty."""
        while True:
            with self.changed:
                while not self.items and not self.closed:
                    self.changed.wait(TICK)
                if not self.items:
                    return
                item, weight = self.items.popleft()
                self.weight -= weight
                self.changed.notify_all()
            yield item
