"""Runs the properties of ``tests/hostile`` one after the other, round after round, for a given time.

``python -m tests.hostile.fuzz --seconds 3600`` prints what it found and counts as a table, and exits with 1 if a
property failed. The seed that shows a failure is printed; after three failures a property is not run again.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import inspect
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROUND = 100
"""Examples of a property in one round."""
MOST_FAILURES = 3
LONGEST = 300
"""Seconds after which an example ends the program, with a traceback: something hangs."""
MEMORY = 4 << 30
"""Bytes that the program may take; beyond, Python raises MemoryError, which is a failure."""
MODULES = ("test_image_properties", "test_run_properties", "test_model_properties")


@dataclass
class Property:
    """A property and what has been seen of it.

    Attributes:
        name: of the test.
        test: of hypothesis; called with the arguments that are not drawn.
        examples: how many were tried.
        slowest: seconds of the slowest of them.
        failed: the seeds that show failures.
    """

    name: str
    test: Callable[..., None]
    examples: int = 0
    slowest: float = 0.0
    failed: list[int] = field(default_factory=list)


def properties() -> Iterator[Property]:
    """All properties, counted and timed."""
    for module in MODULES:
        for name, test in vars(importlib.import_module(f"tests.hostile.{module}")).items():
            if name.startswith("test_") and getattr(test, "is_hypothesis_test", False):
                found = Property(name, test)
                test.hypothesis.inner_test = watched(found, test.hypothesis.inner_test)
                yield found


def watched(found: Property, inner: Callable[..., None]) -> Callable[..., None]:
    """The body of a test, which adds to the counts."""

    def run(*arguments: Any, **named: Any) -> None:
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        began = time.monotonic()
        try:
            inner(*arguments, **named)
        finally:
            found.examples += 1
            faulthandler.cancel_dump_traceback_later()
            found.slowest = max(found.slowest, time.monotonic() - began)

    return run


def try_once(found: Property, seed: int, folder: Path) -> None:
    """One round of a property."""
    import hypothesis

    needs_folder = "tmp_path" in inspect.signature(found.test).parameters
    try:
        hypothesis.seed(seed)(found.test)(**({"tmp_path": folder} if needs_folder else {}))
    except Exception:
        found.failed.append(seed)
        traceback.print_exc()
        print(f"FAILED {found.name}, seed {seed}", flush=True)


def main() -> int:
    """Run until the time is over, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    os.environ["CMAP_FUZZ_EXAMPLES"] = str(ROUND)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    tried, began, seed = list(properties()), time.monotonic(), options.seed
    print(f"{len(tried)} properties, first seed {seed}", flush=True)
    while time.monotonic() - began < options.seconds and any(len(each.failed) < MOST_FAILURES for each in tried):
        for each in tried:
            if len(each.failed) < MOST_FAILURES and time.monotonic() - began < options.seconds:
                with tempfile.TemporaryDirectory() as folder:
                    try_once(each, seed, Path(folder))
        seed += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'property':42}{'examples':>10}{'slowest, s':>12}  seeds of failures")
    for each in tried:
        print(f"{each.name:42}{each.examples:10,}{each.slowest:12.2f}  {' '.join(map(str, each.failed))}")
    total = sum(each.examples for each in tried)
    print(f"{total:,} examples in {time.monotonic() - began:.0f} s, peak {peak / 1e6:.2f} GB")
    return 1 if any(each.failed for each in tried) else 0


if __name__ == "__main__":
    sys.exit(main())
