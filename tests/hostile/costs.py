"""Runs cmap on every hostile file, one process a file: exit codes, seconds and memory as a table.

Processes are forked from this one, which has imported PyTorch, or with ``--shell`` started anew.
``python -m tests.hostile.costs`` exits with 1 if a file is not refused, prints a traceback, takes more than a second of
CPU time above a good image (images only), or 1.5 GB.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.corpus import corpus, picture
from tests.hostile.foreign import GROUPS, Case
from tests.hostile.kills import PATIENCE, ended, enter, forked, prepare, run_in

ROOT = Path(__file__).parents[2]
MEMORY = 1.5
"""GB."""
SECONDS = 1.0
"""Of CPU time, for an image file beyond a good one."""
FAILED, REFUSED = 1, 2
"""Exit codes: no image could be purified; an option, a model, a label file or a folder cannot be used."""


@dataclass(frozen=True)
class Cost:
    """What a process did.

    Attributes:
        name: of the case.
        code: its exit code.
        seconds: of CPU time.
        memory: its peak, GB.
        told: what it wrote on stderr.
    """

    name: str
    code: int
    seconds: float
    memory: float
    told: str


def started(case: Case, folder: Path) -> int:
    """Start a case as from a shell; returns the number of the process."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, "CMAP_DEVICE": "cpu", "NO_COLOR": "1", **case.environment}

    def run() -> None:
        enter(folder)
        os.execve(sys.executable, [sys.executable, "-m", "cmap_cli", *case.arguments], environment)

    return forked(run)


def forked_case(case: Case, folder: Path) -> int:
    """Start a case in a process that has imported PyTorch already; returns the number of the process."""

    def run() -> None:
        os.environ.update({"CMAP_DEVICE": "cpu", "NO_COLOR": "1", **case.environment})
        run_in(folder, case.arguments)

    return forked(run)


def measure(case: Case, start: Callable[[Case, Path], int]) -> Cost:
    """Run a case in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        _, status, used = os.wait4(start(case, folder), 0)
        text = (folder / "stderr").read_text(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    return Cost(case.name, code, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9, text)


def images(model: Path) -> Iterator[tuple[str, Case]]:
    """Kind and case of every image file."""
    for name, content in corpus().items():
        quick = ("--model", str(model), "--steps", "1", "--num-latents", "1")
        yield f"images {Path(name).suffix}", Case(name, ("purify", name, "--out", "o", *quick), {name: content})


def faults(kind: str, cost: Cost, usual: float) -> Iterator[str]:
    """What is wrong with a run."""
    expected = FAILED if kind.startswith("images") else REFUSED
    if cost.code != expected or "Traceback" in cost.told or "error: " not in cost.told:
        yield f"{cost.name}: exit code {cost.code}: {cost.told[-1000:]}"
    if cost.memory > MEMORY:
        yield f"{cost.name}: {cost.memory:.2f} GB"
    if kind.startswith("images") and cost.seconds > usual + SECONDS:
        yield f"{cost.name}: {cost.seconds:.2f} s of CPU time, a good image {usual:.2f} s"


def row(kind: str, costs: list[Cost]) -> str:
    """A line of the table."""
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(Counter(each.code for each in costs).items()))
    slowest, largest = max(costs, key=lambda each: each.seconds), max(costs, key=lambda each: each.memory)
    median = statistics.median(each.seconds for each in costs)
    return (
        f"| {kind} | {len(costs)} | {codes} | {median:.2f} | {slowest.seconds:.2f} ({slowest.name}) "
        f"| {largest.memory:.2f} ({largest.name}) |"
    )


def main() -> int:
    """Print the table and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shell", action="store_true", help="start every process anew: slower, as a user does it")
    parser.add_argument("--images", action="store_true", help="only image files")
    options = parser.parse_args()
    start = started if options.shell else forked_case
    found: dict[str, list[Cost]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        assert ended(forked(lambda: prepare(Path(folder))), PATIENCE) == 0
        model = Path(folder, "model")
        good = ("purify", "good.png", "--out", "o", "--model", str(model), "--steps", "1", "--num-latents", "1")
        usual = [measure(Case("good.png", good, {"good.png": picture("PNG")}), start) for _ in range(5)]
        seconds = statistics.median(each.seconds for each in usual)
        cases = images(model)
        if not options.images:
            cases = itertools.chain(cases, ((group.__name__, case) for group in GROUPS for case in group()))
        for kind, case in cases:
            cost = measure(case, start)
            found.setdefault(kind, []).append(cost)
            wrong += faults(kind, cost, seconds)
    print("| kind | runs | exit code: runs | CPU seconds, median | most (file) | peak memory in GB, most (file) |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(row(kind, costs) for kind, costs in {"a good image": usual, **found}.items()))
    for each in wrong:
        print(f"WRONG {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
