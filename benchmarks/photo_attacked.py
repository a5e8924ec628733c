"""Make attacked photographs for benchmarks/photo_denoising.py.

    python benchmarks/photo_attacked.py photos/eval.csv attacked.npz --n 60

The CSV has the columns file and label (place of the WordNet id among the 1,000 sorted ids). Of each photograph the
middle 224×224 pixels at a short side of 256 are attacked, if EfficientNet-Lite0 classifies them right, until n are
done. The attack is APGD on the cross-entropy (pyautoattack, 100 iterations, seed 0) on the bare classifier: a transfer
attack, which knows nothing of any defence. Writes x, x_adv (uint8, NCHW, the attack rounded to 8 bits), y, names.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from photo_classifier import EfficientNetLite, as_tensor, central, listed, opened
from pyautoattack import AutoAttack

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("table", type=Path)
parser.add_argument("out")
parser.add_argument("--n", type=int, default=60)
parser.add_argument("--attack", choices=["apgd-ce", "standard"], default="apgd-ce")
parser.add_argument("--norm", choices=["Linf", "L2"], default="Linf")
parser.add_argument("--eps", type=float, default=4 / 255)
parser.add_argument("--lite", type=int, default=0)
arguments = parser.parse_args()

classifier = EfficientNetLite(arguments.lite)
clean, labels, names = [], [], []
for path, label in listed(arguments.table):
    x = as_tensor(central(opened(path)))
    with torch.no_grad():
        if int(classifier(x[None]).argmax()) != label:
            continue
    clean.append(x)
    labels.append(label)
    names.append(path.name)
    if len(clean) == arguments.n:
        break
x, y = torch.stack(clean), torch.tensor(labels)
custom = {"version": "custom", "attacks": ["apgd-ce"]} if arguments.attack == "apgd-ce" else {"version": "standard"}
attack = AutoAttack(classifier, norm=arguments.norm, eps=arguments.eps, seed=0, device="cpu", **custom)
x_adv = (255 * attack.run_standard_evaluation(x, y, batch_size=10)[0]).round()
for name, images in (("clean", x), ("attacked", x_adv / 255)):
    with torch.no_grad():
        right = sum(
            int((classifier(part).argmax(1) == label).sum())
            for part, label in zip(images.split(10), y.split(10), strict=True)
        )
    print(f"{name}: {right} of {len(y)} classified right, L∞ distance {255 * (images - x).abs().max():.2f}/255")
np.savez_compressed(
    arguments.out, x=(255 * x).round().byte().numpy(), x_adv=x_adv.byte().numpy(), y=y.numpy(), names=np.array(names)
)
