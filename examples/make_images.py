"""Make examples/images and examples/labels.csv from CIFAR-10.

    python examples/make_images.py cifar10.npz

The first 24 images of the paper's 500-image subset that the ResNet-18 of pyautoattack classifies right; nothing is
chosen by how well it purifies. Every second one is attacked: APGD on the cross-entropy, L∞ 8/255, 100 iterations,
pyautoattack, seed 0, on that undefended classifier, rounded to 8 bits. cifar10.npz holds x_test (10000, 32, 32, 3)
uint8 and y_test.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pyautoattack import AutoAttack

from cmap_cli.data.images import to_uint8
from cmap_cli.models.classifiers import load_classifier

COUNT = 24
here = Path(__file__).parent
loaded = load_classifier()
subset = np.random.RandomState(0).choice(10000, 500, replace=False)[:50]
with np.load(sys.argv[1]) as data:
    x = torch.from_numpy(data["x_test"][subset]).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(data["y_test"][subset]).long()
with torch.no_grad():
    right = (loaded.module(x).argmax(1) == y).nonzero().flatten()[:COUNT]
x, y, names = x[right], y[right], subset[right.numpy()]
attacked = torch.arange(COUNT) % 2 == 1
attack = AutoAttack(
    loaded.module, norm="Linf", eps=8 / 255, seed=0, version="custom", attacks=["apgd-ce"], device="cpu"
)
x[attacked] = attack.run_standard_evaluation(x[attacked], y[attacked], batch_size=COUNT)[0]
rows = []
for image, label, name, bad in zip(to_uint8(x), y.tolist(), names.tolist(), attacked.tolist(), strict=True):
    path = here / "images" / ("adversarial" if bad else "clean") / f"{name:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    rows.append((path.relative_to(here).as_posix(), loaded.classes[label]))
with (here / "labels.csv").open("w", newline="") as file:
    csv.writer(file, lineterminator="\n").writerows([("file", "label"), *rows])
