"""Hands work from one thread to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")
TICK = 0.5


class Closed(Exception):  # noqa: N818 - no error: how a thread learns that it can stop
    """The channel accepts no more items."""


class Channel(Generic[T]):
    """A queue of bounded weight that either side can close.

    Args:
        capacity: an item waits while the items in the queue weigh as much or more; so the queue never holds more
            than the capacity and one item.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: deque[tuple[T, int]] = deque()
        self.weight = 0
        self.closed = False
        self.changed = Condition()

    def put(self, item: T, weight: int = 1) -> None:
        """Hand over an item; waits for room (Closed if the channel was closed)."""
        with self.changed:
            while self.weight >= self.capacity and not self.closed:
                self.changed.wait(TICK)  # a wait without end could not be interrupted on Windows
            if self.closed:
                raise Closed
            self.items.append((item, weight))
            self.weight += weight
            self.changed.notify_all()

    def close(self, *, drop: bool = False) -> None:
        """Accept no more items; those in the queue can still be taken, unless they are dropped."""
        with self.changed:
            self.closed = True
            if drop:
                self.items.clear()
            self.changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """The items, until the channel is closed and empty."""
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
