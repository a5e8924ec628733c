"""Whether a majority of several one-step samples inside the smoothed classifier certifies more images.

    python benchmarks/certify_vote.py --images 50 --samples 48 --vote 4

Plain: a noisy image is denoised once and classified. Vote: the denoised image gets fresh noise of a lower level, is
denoised again and classified, M times, and the most frequent of the M classes is the class of the noisy image. Such a
sample costs M + 1 denoisings and M classifications. For each image the script estimates the probability of its label
under noise, p, and counts the images with p above Φ(radius/σ), which infinitely many samples would certify.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import cmap_cli
from cmap_cli.benchmarking.certificates.bounds import needed_probability
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.defenses.smoothing import NoisyClassifier, noise_key, noisy_samples
from cmap_cli.device import choose_dtype

Classify = Callable[[Tensor], Tensor]


def plain(h: NoisyClassifier, sigma: float) -> Classify:
    """Noisy images -> classes: denoised once."""
    return lambda noisy: h(noisy, torch.full((len(noisy),), sigma)).argmax(1)


def voted(h: NoisyClassifier, sigma: float, again: float, votes: int) -> Classify:
    """Noisy images -> classes: the most frequent of M, each with fresh noise of level ``again`` after denoising."""
    generator = Generator().manual_seed(0)

    def classify(noisy: Tensor) -> Tensor:
        clean = h.denoise(noisy, torch.full((len(noisy),), sigma))
        levels = torch.full((len(noisy),), again)
        counts = torch.zeros(len(noisy), 10)
        for _ in range(votes):
            renoised = clean + again * torch.randn(clean.shape, generator=generator)
            counts += F.one_hot(h(renoised, levels).argmax(1), 10)
        return counts.argmax(1)

    return classify


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--radius", type=float, default=0.25)
    parser.add_argument("--vote", type=int, default=4)
    parser.add_argument("--again", type=float, nargs="+", default=[0.06, 0.12], help="sigma of the fresh noise")
    parser.add_argument("--classifier", default="pyautoattack-resnet18")
    options = parser.parse_args()
    dtype = choose_dtype("auto", torch.device("cpu"))
    h = NoisyClassifier(cmap_cli.load_model(), cmap_cli.load_classifier(options.classifier).module, dtype=dtype)
    dataset = load_dataset("cifar10", n=options.images)
    batch = dataset.batch(0, options.images)
    kinds = {"plain": plain(h, options.sigma)} | {
        f"vote of {options.vote} after noise {again:g}": voted(h, options.sigma, again, options.vote)
        for again in options.again
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    with torch.inference_mode():
        for image, label in zip(batch.x, batch.y.tolist(), strict=True):
            key = noise_key(image, options.sigma, 0)
            noisy = noisy_samples(image, options.sigma, key, range(options.samples))
            for name, classify in kinds.items():
                found[name].append(float((classify(noisy) == label).float().mean()))
    needed = needed_probability(options.radius, options.sigma)
    for name, shares in found.items():
        p = torch.tensor(shares)
        better = "" if name == "plain" else f"; p - p(plain) {float((p - torch.tensor(found['plain'])).mean()):+.3f}"
        certified = int((p > needed).sum())
        print(f"{name}: mean p {float(p.mean()):.3f}, p > {needed:.3f} on {certified} of {len(p)} images{better}")


if __name__ == "__main__":
    main()
