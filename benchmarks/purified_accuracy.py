"""Purified accuracy, distance to the clean image and time of settings on one set of images.

    python benchmarks/purified_accuracy.py adversarial.npz --model cifar10-gaussian --preset paper --preset balanced

adversarial.npz comes from benchmarks/adversarial.py. Each --preset is the name of a preset, or changes to one:
"paper:steps=50,lr=8,lr_schedule=cosine". "denoise:denoise_level=0.25" is no latent optimisation at all: the last step
of `balanced` alone, on the image as it came, which says what the optimisation adds. Prints a Markdown table: accuracy
of the votes on the clean and on the attacked images; accuracy of the one image that each --select writes; mean L2
distance of it to the clean image; seconds an image on this machine. The classifier is the ResNet-18 of pyautoattack.
"""

import argparse
import dataclasses
import time

import numpy as np
import torch

from cmap_cli.core.predict import classify, hard_vote, select, soft_vote
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PurifyConfig, preset_for, resolve_config
from cmap_cli.device import choose_device, choose_dtype
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.perceptual import load_similarity
from cmap_cli.models.zoo import load_model

SELECTS = ("best", "mean", "medoid", "vote")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images")
parser.add_argument("--n", type=int, default=100)
parser.add_argument("--skip", type=int, default=0, help="leave out as many images at the beginning")
parser.add_argument("--model", default="cifar10-gaussian")
parser.add_argument("--preset", action="append", required=True)
parser.add_argument("--perceptual", choices=["ssim", "lpips", "both"], default="ssim")
parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
parser.add_argument("--batch-size", type=int, default=10)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()


def parse_preset(text: str) -> PurifyConfig:
    """ "paper:steps=50" -> the preset with that change."""
    name, _, changes = text.partition(":")
    preset = resolve_config("balanced", model, method="denoise") if name == "denoise" else preset_for(name, model)
    types = {field.name: type(getattr(preset, field.name)) for field in dataclasses.fields(PurifyConfig)}
    pairs = (change.split("=") for change in changes.split(",") if change)
    return dataclasses.replace(preset, **{key: types[key](value) for key, value in pairs})


device = choose_device().device
model = load_model(arguments.model, device)
similarity = load_similarity(arguments.perceptual, device=device)
classifier = load_classifier(device=device).module
with np.load(arguments.images) as data:
    shown = slice(arguments.skip, arguments.skip + arguments.n)
    clean, attacked, y = (torch.from_numpy(data[name][shown]) for name in ("x", "x_adv", "y"))

print(f"{arguments.model}, {len(y)} images from number {arguments.skip}, {device}\n")
columns = " | ".join(f"{how} clean / attacked (L2)" for how in SELECTS)
print(f"| setting | soft vote clean / attacked | hard vote | {columns} | s an image |")
print("| --- " * (4 + len(SELECTS)) + "|")
for text in arguments.preset:
    purifier = Purifier(model, parse_preset(text), similarity, choose_dtype(arguments.precision, device))
    cells: dict[str, list[str]] = {}
    began = time.perf_counter()
    for images in (clean, attacked):
        right: dict[str, float] = {}
        distance: dict[str, float] = {}
        for start in range(0, len(y), arguments.batch_size):
            part = slice(start, start + arguments.batch_size)
            x = images[part].to(device)
            result = purifier(x, image_generators(x, arguments.seed))
            label, target = y[part].to(device), clean[part].to(device)
            with torch.no_grad():
                logits = classify(classifier, result.samples)
                predictions = {"soft": soft_vote(logits), "hard": hard_vote(logits)}
                for how in SELECTS:
                    chosen = select(result, how, logits)
                    predictions[how] = classifier(chosen)
                    distance[how] = distance.get(how, 0) + (chosen - target).flatten(1).norm(dim=1).sum().item()
            for name, scores in predictions.items():
                right[name] = right.get(name, 0) + (scores.argmax(1) == label).sum().item()
        for name, count in right.items():
            away = f" ({distance[name] / len(y):.2f})" if name in distance else ""
            cells.setdefault(name, []).append(f"{100 * count / len(y):.1f}{away}")
    seconds = (time.perf_counter() - began) / (2 * len(y))
    print(f"| {text} | " + " | ".join(" / ".join(cell) for cell in cells.values()) + f" | {seconds:.2f} |", flush=True)
