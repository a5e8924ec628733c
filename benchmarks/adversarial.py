"""Make the images that the other benchmarks purify: CIFAR-10 test images and transferred adversarial ones.

    python benchmarks/adversarial.py cifar10.npz adversarial.npz --n 100

cifar10.npz holds x_test (10000, 32, 32, 3) uint8 and y_test. The images are the first n of the paper's subset,
numpy.random.RandomState(0).choice(10000, 500, replace=False). The attack is APGD on the cross-entropy (100 iterations,
pyautoattack, seed 0), or all of AutoAttack "standard", on the undefended ResNet-18 of pyautoattack: a transfer attack,
which knows nothing of the defence. Writes x, x_adv (float32, NCHW, [0, 1]) and y.
"""

import argparse

import numpy as np
import torch
from pyautoattack import AutoAttack

from cmap_cli.models.classifiers import load_classifier

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar10")
parser.add_argument("out")
parser.add_argument("--n", type=int, default=100)
parser.add_argument("--attack", choices=["apgd-ce", "standard"], default="apgd-ce")
parser.add_argument("--eps", type=float, default=8 / 255)
arguments = parser.parse_args()

subset = np.random.RandomState(0).choice(10000, 500, replace=False)[: arguments.n]
with np.load(arguments.cifar10) as data:
    x = torch.from_numpy(data["x_test"][subset]).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(data["y_test"][subset]).long()
classifier = load_classifier().module
custom = {"version": "custom", "attacks": ["apgd-ce"]} if arguments.attack == "apgd-ce" else {"version": "standard"}
attack = AutoAttack(classifier, norm="Linf", eps=arguments.eps, seed=0, device="cpu", **custom)
x_adv = attack.run_standard_evaluation(x, y, batch_size=50)[0]
for name, images in (("clean", x), ("attacked", x_adv)):
    with torch.no_grad():
        right = (classifier(images).argmax(1) == y).sum().item()
    print(f"{name}: {right} of {len(y)} classified right, L∞ distance {(images - x).abs().max():.5f}")
np.savez_compressed(arguments.out, x=x.numpy(), x_adv=x_adv.numpy(), y=y.numpy())
