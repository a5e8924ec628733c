"""Samples per second of ``cmap certify`` beside a plain loop, and how often bfloat16 changes the class of a sample.

python benchmarks/certify_speed.py --images 4 --samples 256

    python benchmarks/certify_speed.py --cohen core.py

times the certify method of Cohen's program, too: core.py of github.com/locuslab/smoothing, on the same modules. It
asks for a CUDA device and for a function that scipy has not any more; both are replaced, and nothing else.

The plain loop is what one writes after Cohen's description: repeat the image, add torch.randn, classify, in float32 and
in batches of its own. It uses the same modules. Times are CPU time: with one thread, the wall clock of an idle machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from unittest.mock import patch

import scipy.stats
import torch
from torch import Tensor, nn

import cmap_cli
from cmap_cli.benchmarking.certificates.procedure import Plan
from cmap_cli.benchmarking.certificates.work import Certification, certify_units
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.defenses.smoothing import NoisyClassifier, classify_blocks, noise_key, noisy_samples
from cmap_cli.device import choose_dtype


def plain_loop(h: NoisyClassifier, x: Tensor, sigma: float, samples: int, batch: int) -> Tensor:
    """The counts of the classes of one image."""
    counts = torch.zeros(10, dtype=torch.int64)
    for start in range(0, samples, batch):
        size = min(batch, samples - start)
        noisy = x.repeat(size, 1, 1, 1) + sigma * torch.randn(size, *x.shape)
        with torch.no_grad():
            logits = h(noisy, torch.full((size,), sigma))
        counts += torch.bincount(logits.argmax(1), minlength=10)
    return counts


class AtOneLevel(nn.Module):
    """The classifier of noisy images for one noise level, as Cohen's program calls it."""

    def __init__(self, h: NoisyClassifier, sigma: float) -> None:
        super().__init__()
        self.h = h
        self.sigma = sigma

    def forward(self, noisy: Tensor) -> Tensor:
        logits: Tensor = self.h(noisy, torch.full((len(noisy),), self.sigma))
        return logits


def cohens_speed(path: Path, h: NoisyClassifier, x: Tensor, sigma: float, samples: int, batch: int) -> float:
    """Samples per second of CPU time of the certify method in ``path``."""
    spec = importlib.util.spec_from_file_location("cohens_core", path)
    assert spec and spec.loader
    if not hasattr(scipy.stats, "binom_test"):  # which core.py imports, and certify does not call
        scipy.stats.binom_test = None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    smooth = module.Smooth(AtOneLevel(h, sigma), 10, sigma)
    plain = torch.randn_like
    with patch.object(torch, "randn_like", lambda like, **_: plain(like)):
        smooth.certify(x[0], 1, batch, 0.001, batch)
        began = time.process_time()
        for image in x:
            smooth.certify(image, 1, samples - 1, 0.001, batch)
    return len(x) * samples / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--cohen", type=Path, help="core.py of Cohen's program, to be timed beside")
    options = parser.parse_args()
    device = torch.device("cpu")
    model, classifier = cmap_cli.load_model(), cmap_cli.load_classifier().module
    dataset = load_dataset("cifar10", n=options.images)
    x = dataset.batch(0, options.images).x
    kinds = {dtype: NoisyClassifier(model, classifier, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    total = options.images * options.samples
    for batch in (64, 400):
        plain_loop(kinds[torch.float32], x[0], options.sigma, batch, batch)
        began = time.process_time()
        for image in x:
            plain_loop(kinds[torch.float32], image, options.sigma, options.samples, batch)
        print(f"plain loop, float32, batches of {batch}: {total / (time.process_time() - began):.0f} samples/s")
    if options.cohen:
        for batch in (64, 400):
            speed = cohens_speed(options.cohen, kinds[torch.float32], x, options.sigma, options.samples, batch)
            print(f"Cohen's core.py, float32, batches of {batch}: {speed:.0f} samples/s")
    plan = Plan("cohen", 1, options.samples - 1, 0.001, (0.25,))
    for dtype, h in kinds.items():
        run = Certification(dataset, h, (options.sigma,), plan, 0, 64, device)
        began = time.process_time()
        assert len(list(certify_units(run, run.work()))) == options.images
        speed = total / (time.process_time() - began)
        name = str(dtype).removeprefix("torch.")
        print(f"cmap certify, {name}: {speed:.0f} samples/s{' (default here)' if dtype == default() else ''}")
    y = dataset.batch(0, options.images).y
    agreement(kinds, x, y, options)


def default() -> torch.dtype:
    """What ``--precision auto`` computes in."""
    return choose_dtype("auto", torch.device("cpu"))


def agreement(kinds: dict[torch.dtype, NoisyClassifier], x: Tensor, y: Tensor, options: argparse.Namespace) -> None:
    """On how many samples the precisions differ, and how many each gets right."""
    different, right = 0, [0, 0]
    for image, label in zip(x, y.tolist(), strict=True):
        key = noise_key(image, options.sigma, 0)
        noisy = noisy_samples(image, options.sigma, key, range(options.samples))
        sigma = torch.full((options.samples,), options.sigma)
        found = [classify_blocks(h, noisy, sigma, torch.device("cpu")) for h in kinds.values()]
        different += sum(a != b for a, b in zip(*found, strict=True))
        right = [before + classes.count(label) for before, classes in zip(right, found, strict=True)]
    total = len(x) * options.samples
    print(f"of {total} samples bfloat16 gives another class than float32 for {100 * different / total:.2f} %")
    print(f"correct: float32 {100 * right[0] / total:.2f} %, bfloat16 {100 * right[1] / total:.2f} %")


if __name__ == "__main__":
    main()
