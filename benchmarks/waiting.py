"""What it costs that OpenMP threads spin while they wait for each other, on idle and on busy cores.

``python benchmarks/waiting.py --busy 2`` measures the bundled classifier beside two processes that compute
all the time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SETTINGS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "GNU's default": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = "while True: pass"


def measure(images: int, seconds: float) -> float:
    """The median seconds of one pass of the classifier."""
    import torch

    from cmap_cli.models.classifiers import load_classifier

    network, x = load_classifier().module, torch.rand(images, 3, 32, 32)
    took: list[float] = []
    began = time.perf_counter()
    with torch.no_grad():
        network(x)
        while len(took) < 3 or time.perf_counter() - began < seconds:
            at = time.perf_counter()
            network(x)
            took.append(time.perf_counter() - at)
    return statistics.median(took)


def main() -> None:
    """Print a table: a row for each setting, a column for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute all the time")
    parser.add_argument("--threads", default="2", help="of the classifier")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16], help="in one pass")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(" | ".join(f"{1000 * measure(n, options.seconds):.0f}" for n in options.images))
        return
    given = [*map(str, options.images), "--seconds", str(options.seconds)]
    command = [sys.executable, __file__, "--inside", "--images", *given]
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    try:
        print("| waiting | " + " | ".join(f"{n} images, ms" for n in options.images) + " |")
        print("| --- " * (1 + len(options.images)) + "|")
        for name, variables in SETTINGS.items():
            environment = {k: v for k, v in os.environ.items() if k not in {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}}
            environment |= {"OMP_NUM_THREADS": options.threads, **variables}
            run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            print(f"| {name} | {run.stdout.strip()} |", flush=True)
    finally:
        for each in busy:
            each.kill()
            each.wait()


if __name__ == "__main__":
    main()
