"""Adapts pyautoattack's ResNet-18 to denoised noisy images, and writes it as a TorchScript file for ``--classifier``.

    python benchmarks/adapt_classifier.py cifar10.npz adapted.pt --sigma 0.25 --images 14336
    cmap certify --n 50 --sigma 0.25 --radius 0.25 --classifier adapted.pt --normalisation none --out adapted

cifar10.npz holds x_train (N, 32, 32, 3) uint8 and y_train. Trained are batch normalisations and the last layer, on the
training split alone. The model denoises as ``cmap certify`` does; the noise level is that of the certificates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import cmap_cli
from cmap_cli.defenses.smoothing import NoisyClassifier

BATCH = 128
WARM_UP = 20
FIRST_STATISTICS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--images", type=int, default=14336)
    parser.add_argument("--lr", type=float, default=0.002)
    options = parser.parse_args()
    arrays = np.load(options.data)
    x = torch.from_numpy(arrays["x_train"]).permute(0, 3, 1, 2)
    y = torch.from_numpy(arrays["y_train"]).long()
    classifier = cmap_cli.load_classifier().module
    h = NoisyClassifier(cmap_cli.load_model(), classifier, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        images = x[chosen].float() / 255
        flipped = torch.rand(BATCH, generator=generator) < 0.5
        images[flipped] = images[flipped].flip(3)
        noisy = images + options.sigma * torch.randn(images.shape, generator=generator)
        with torch.no_grad():
            return h.denoise(noisy, torch.full((BATCH,), options.sigma)), y[chosen]

    adapt(classifier, batch, options.images // BATCH, options.lr)
    classifier.eval().requires_grad_(False)
    torch.jit.save(torch.jit.trace(classifier, torch.zeros(2, 3, 32, 32)), options.out)


def adapt(classifier: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], steps: int, lr: float) -> None:
    """Batch statistics first, then AdamW on the affine parameters and the last layer, the rate falling to 0."""
    norms = [each for each in classifier.modules() if isinstance(each, nn.BatchNorm2d)]
    heads = [each for each in classifier.modules() if isinstance(each, nn.Linear)]
    for each in norms:
        each.train()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(FIRST_STATISTICS):
            classifier(batch()[0])
    parameters = [p for each in (*norms, *heads) for p in each.parameters()]
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * min(1, (step + 1) / WARM_UP) * (1 - step / steps)
        images, labels = batch()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(classifier(images).float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 0:
            sys.stderr.write(f"{step}/{steps} steps, loss {float(loss):.3f}\n")


if __name__ == "__main__":
    main()
