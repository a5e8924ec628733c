"""Compare recipes of the photograph model on equal images.

    python benchmarks/photo_ablation.py photos/train --table photos/eval.csv --set optimiser=adam --set optimiser=muon

Each --set is one run of 1,500 iterations of 16 crops of 64×64 (linear fall of the learning rate over the last 450) with
the fields of cmap_cli.training.photo_recipe.PhotoConfig that it names, separated by semicolons:
"widths=64,128,256;blocks=1;middle=2". Prints the mean PSNR in dB of the denoiser, at t = 0.05 to 0.5, on the middle
224×224 pixels at a short side of 256 of the first 40 photographs of the table, and the seconds of training.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from photo_classifier import as_tensor, central, listed, opened
from torch import Generator

from cmap_cli.data.inputs import discover
from cmap_cli.device import choose_device, choose_dtype
from cmap_cli.training.photo_loop import train_photo
from cmap_cli.training.photo_recipe import PhotoConfig, Stage
from cmap_cli.training.photos import read_photos

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)
SHORT = PhotoConfig(iterations=1500, decay=450, stages=(Stage(0, 64, 16),), warmup=100, half_lives=(100.0, 100.0))

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", nargs="+")
parser.add_argument("--table", type=Path, required=True)
parser.add_argument("--set", action="append", default=[], dest="sets")
parser.add_argument("--n", type=int, default=40)
arguments = parser.parse_args()


def changed(text: str) -> PhotoConfig:
    """ "lr=0.002;widths=64,96" -> the recipe with these."""
    fields = dict(part.split("=") for part in text.split(";") if part)
    types = {field.name: type(getattr(SHORT, field.name)) for field in dataclasses.fields(SHORT)}
    values = {
        name: tuple(map(int, value.split(","))) if types[name] is tuple else types[name](value)
        for name, value in fields.items()
    }
    return dataclasses.replace(SHORT, **values)


def psnr(model: torch.nn.Module, images: list[torch.Tensor], level: float) -> float:
    found = []
    for index, x in enumerate(images):
        y = 2 * x - 1 + level * torch.randn(x.shape, generator=Generator().manual_seed(index))
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            estimate = (model.denoise(y.to(device), torch.full((1,), level, device=device)).clamp(-1, 1) + 1) / 2
        found.append(float(-10 * (estimate.cpu() - x).square().mean().log10()))
    return sum(found) / len(found)


device = choose_device().device
dtype = choose_dtype("auto", device)
sources = discover(arguments.photos, None).sources
images = [as_tensor(central(opened(path)))[None] for path, _ in listed(arguments.table)[: arguments.n]]
print(f"{len(images)} photographs, {dtype} on {device}\n\n| recipe | {' | '.join(map(str, LEVELS))} | parameters | s |")
print("| --- " * (len(LEVELS) + 3) + "|")
for text in arguments.sets:
    with tempfile.TemporaryDirectory() as folder:
        photos = read_photos(sources, Path(folder), lambda: None, print)
        model, _, seconds = train_photo(photos, changed(text), Path(folder), lambda _: None, device, dtype)
    cells = " | ".join(f"{psnr(model, images, level):.2f}" for level in LEVELS)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"| {text} | {cells} | {count:.2f} M | {seconds:.0f} |", flush=True)
