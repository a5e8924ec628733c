"""How good a consistency model is as a generator of CIFAR-10: samples, denoising, reconstruction.

    python benchmarks/generator_quality.py cifar10.npz --model cifar10-gaussian --model DIR --reconstructions sheet.png

cifar10.npz holds x_train, x_test (N, 32, 32, 3) uint8. Prints a Markdown table, one row a model; lower Fréchet
distances and higher figures everywhere else are better. All images are clipped to [0, 1] before they are measured.

Fréchet distance on ResNet-18 features: between --samples samples and all test images, each set taken for a Gaussian
in the 512 features that the last linear layer of the ResNet-18 of pyautoattack sees. It is NOT the FID: that uses
other features (Inception), 50,000 samples and the training images. It depends on the number of samples and compares
rows of one table only. The samples are f(z, t_max), and two-step samples (Song et al. 2023, arXiv 2303.01469,
Algorithm 1), which are clipped, noised again to the level --second-level and denoised once more. Rows to read them by:

- as many training images: a floor, with a bias, as the ResNet-18 learnt from these and is surer of them;
- one half of the test images against the other: a floor without it, but with another number of images;
- the model cifar10-gaussian, if it is asked for: a ceiling, as it knows no more of the images than their mean and
  covariance; a network above it has not learnt to generate.

Denoising and classification: f(x + t·n, t) of the first 200 images of the paper's subset (bundled), t in units of
[-1, 1], the same n for all levels and models; mean of the images' PSNR, and the share that the ResNet-18 gets right.
f leads to one image, not to the mean of all images that x + t·n may come from, so that a denoiser trained for the
PSNR has a higher one.

Reconstruction: the first --reconstruct clean images of the subset, purified with --reconstruction-preset, and the mean
of the candidates taken, as `cmap purify` does it; mean PSNR and SSIM; seconds an image on this device, with
--batch-size latents at once. The picture shows them beside the originals, and the difference times 4.
"""

import argparse
import dataclasses
import json
import re
import time
from pathlib import Path

import numpy as np
import torch
from frechet import Moments, frechet_distance, moments
from torch import Generator, Tensor, nn

from cmap_cli.choices import DEFAULT_PRESET, DEFAULT_SELECT
from cmap_cli.core.consistency import generate, to_model_range, to_unit_range
from cmap_cli.core.predict import select
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PRESETS, preset_for
from cmap_cli.core.similarity import SSIM
from cmap_cli.core.types import ConsistencyModel, num_classes
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.data.sheets import SheetRow, write_comparison
from cmap_cli.device import choose_device, choose_dtype
from cmap_cli.models.classifiers import LoadedClassifier, load_classifier
from cmap_cli.models.zoo import load_identified_model

LEVELS = (0.1, 0.2, 0.3, 0.5, 1.0)
DENOISED = 200
SHAPE = (3, 32, 32)
DIFFERENCE_GAIN = 4.0

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("cifar10")
parser.add_argument("--model", action="append", required=True)
parser.add_argument("--samples", type=int, default=5000)
parser.add_argument("--second-level", type=float, default=0.5, help="t of the second step, in units of [-1, 1]")
parser.add_argument("--reconstruct", type=int, default=32, help="how many images")
parser.add_argument("--reconstruction-preset", choices=PRESETS, default=DEFAULT_PRESET)
parser.add_argument("--reconstructions", type=Path, help="picture to write; of several models one each, FILE-MODEL.png")
parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of purification")
parser.add_argument("--batch-size", type=int, default=100, help="images or latents that a network sees at once")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--json", type=Path)
arguments = parser.parse_args()
device = choose_device().device


def generator(purpose: int) -> Generator:
    """One stream of noise a purpose, the same for every model."""
    state = np.random.SeedSequence([arguments.seed, purpose]).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0] >> np.uint64(1)))


def images_of(pixels: np.ndarray) -> Tensor:
    """uint8 (N, 32, 32, 3) -> float32 (N, 3, 32, 32) in [0, 1] on the device."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float() / 255


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR in dB of each image in [0, 1], (N,)."""
    return -10 * (x - y).square().flatten(1).mean(1).log10()


class Features:
    """The last linear layer's input, (N, 512) on the CPU, of images (N, 3, 32, 32) in [0, 1]."""

    def __init__(self, classifier: LoadedClassifier) -> None:
        self.module = classifier.module
        self.seen = torch.empty(0)
        last = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear)][-1]
        last.register_forward_pre_hook(self.keep)

    def keep(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self.seen = inputs[0].cpu()

    def __call__(self, x: Tensor) -> Tensor:
        self.module(x)
        return self.seen

    def of_pixels(self, pixels: np.ndarray) -> Tensor:
        parts = range(0, len(pixels), arguments.batch_size)
        return torch.cat([self(images_of(pixels[start : start + arguments.batch_size])) for start in parts])


def denoise(model: ConsistencyModel, x: Tensor, level: float) -> Tensor:
    """clip(f(x, t)) of noisy images in the model's range, in that range."""
    return model(x, torch.full((len(x),), level, device=device)).clamp(-1, 1)


def sample_distances(model: ConsistencyModel, features: Features, reference: Moments) -> dict[str, float]:
    """The Fréchet distance of one-step and of two-step samples."""
    level = arguments.second_level
    first, second = generator(0), generator(1)
    one_step, two_steps = [], []
    for start in range(0, arguments.samples, arguments.batch_size):
        shape = (min(arguments.batch_size, arguments.samples - start), *SHAPE)
        images = generate(model, model.sigma_max * torch.randn(shape, generator=first).to(device))
        one_step.append(features(to_unit_range(images)))
        noise = torch.randn(shape, generator=second).to(device)
        noised = images + (level**2 - model.sigma_min**2) ** 0.5 * noise
        two_steps.append(features(to_unit_range(denoise(model, noised, level))))
    return {
        name: frechet_distance(moments(torch.cat(seen)), reference)
        for name, seen in (("frechet_one_step", one_step), ("frechet_two_steps", two_steps))
    }


def denoising(model: ConsistencyModel | None, classifier: nn.Module, x: Tensor, y: Tensor) -> dict[str, list[float]]:
    """Mean PSNR and share classified right at each level; without a model, of the noisy images themselves."""
    noise = torch.randn(x.shape, generator=generator(2))
    found: dict[str, list[float]] = {"psnr": [], "right": []}
    for level in LEVELS:
        decibels = right = 0.0
        for part in torch.arange(len(x)).split(arguments.batch_size):
            clean, label = x[part].to(device), y[part].to(device)
            noisy = to_model_range(clean) + level * noise[part].to(device)
            restored = to_unit_range(noisy.clamp(-1, 1) if model is None else denoise(model, noisy, level))
            decibels += psnr(restored, clean).sum().item()
            right += (classifier(restored).argmax(1) == label).sum().item()
        found["psnr"].append(decibels / len(x))
        found["right"].append(right / len(x))
    return found


def reconstruct(model: ConsistencyModel, x: Tensor) -> tuple[dict[str, float], Tensor, Tensor]:
    """Mean PSNR and SSIM, seconds an image; the images, (N, 3, 32, 32) on the CPU, and the PSNR of each, (N,)."""
    config = preset_for(arguments.reconstruction_preset, model)
    dtype = choose_dtype(arguments.precision, device)
    purifier = Purifier(model, config, SSIM(), dtype)
    parts = x.split(max(1, arguments.batch_size // config.num_latents))
    warm_up = Purifier(model, dataclasses.replace(config, steps=1), SSIM(), dtype)
    warm_up(parts[0].to(device), image_generators(parts[0], arguments.seed))
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    results = [purifier(part.to(device), image_generators(part, arguments.seed)) for part in parts]
    images = torch.cat([select(result, DEFAULT_SELECT).cpu() for result in results])
    seconds = (time.perf_counter() - began) / len(x)
    ratios = psnr(images, x)
    similarity = SSIM().map(images, x).mean()
    return {"psnr": float(ratios.mean()), "ssim": float(similarity), "seconds": seconds}, images, ratios


def picture_path(name: str) -> Path:
    """Where a model's reconstructions are drawn."""
    path = arguments.reconstructions
    if len(arguments.model) == 1:
        return path
    return path.with_stem(f"{path.stem}-{re.sub(r'[^A-Za-z0-9.-]+', '-', name).strip('-')}")


def row(name: str, *cells: str) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def levels(values: list[float], digits: int = 1, factor: float = 1.0) -> str:
    return " / ".join(f"{factor * value:.{digits}f}" for value in values)


if arguments.batch_size < 1:
    parser.error(f"--batch-size {arguments.batch_size} is not 1 or more")
for path in (arguments.json, arguments.reconstructions):
    if path is not None and not path.parent.is_dir():
        parser.error(f"{path.parent} is not a folder")
models = {name: load_identified_model(name, device) for name in arguments.model}
for name, loaded in models.items():
    if tuple(loaded.model.image_shape) != SHAPE or num_classes(loaded.model):
        parser.error(f"{name} is not an unconditional model of 32×32 RGB images")
    if not loaded.model.sigma_min < arguments.second_level < loaded.model.sigma_max:
        parser.error(f"--second-level {arguments.second_level} is outside the noise levels of {name}")
with np.load(arguments.cifar10) as data:
    test, train = data["x_test"], data["x_train"]
if not 2 <= arguments.samples <= len(train):
    parser.error(f"--samples {arguments.samples} is not between 2 and the {len(train)} training images")
train = train[np.random.RandomState(arguments.seed).choice(len(train), arguments.samples, replace=False)]
subset = load_dataset("cifar10")
if not 1 <= arguments.reconstruct <= len(subset):
    parser.error(f"--reconstruct {arguments.reconstruct} is not between 1 and {len(subset)}")
denoised, clean = subset.batch(0, DENOISED), subset.batch(0, arguments.reconstruct)
classifier = load_classifier(device=device)
features = Features(classifier)

torch.set_grad_enabled(False)  # purification switches it on for its steps
test_features = features.of_pixels(test)
reference, half = moments(test_features), len(test) // 2
train_distance = frechet_distance(moments(features.of_pixels(train)), reference)
halves_distance = frechet_distance(moments(test_features[:half]), moments(test_features[half:]))
noisy = denoising(None, classifier.module, denoised.x, denoised.y)
settings = {
    "samples": arguments.samples,
    "test_images": len(test),
    "second_level": arguments.second_level,
    "levels": LEVELS,
    "denoised": len(denoised.x),
    "reconstructed": len(clean.x),
    "preset": arguments.reconstruction_preset,
    "dtype": str(choose_dtype(arguments.precision, device)).removeprefix("torch."),
    "batch_size": arguments.batch_size,
    "seed": arguments.seed,
    "device": str(device),
}
references = {"frechet_training_images": train_distance, "frechet_halves_of_the_test_images": halves_distance} | {
    f"noisy_{key}": values for key, values in noisy.items()
}
found: list[dict[str, object]] = []

print(f"{len(test)} test images, {arguments.samples} samples, {len(denoised.x)} denoised and", end=" ")
print(f"{len(clean.x)} reconstructed ({settings['preset']}, {settings['dtype']}), seed {arguments.seed}, {device}\n")
at = " / ".join(f"{level:g}" for level in LEVELS)
row(
    "model",
    f"Fréchet distance on ResNet-18 features: one step / two steps (t = {arguments.second_level:g})",
    f"PSNR denoised from t = {at}, dB",
    "classified right after it, %",
    "reconstruction: PSNR, dB / SSIM",
    "s an image",
)
print("| --- " * 6 + "|")
row(f"{arguments.samples} training images", f"{train_distance:.2f}", "–", "–", "–", "–")
row("one half of the test images against the other", f"{halves_distance:.2f}", "–", "–", "–", "–")
row("the noisy images", "–", levels(noisy["psnr"]), levels(noisy["right"], factor=100), "–", "–")
for name, loaded in models.items():
    distances = sample_distances(loaded.model, features, reference)
    restored = denoising(loaded.model, classifier.module, denoised.x, denoised.y)
    quality, images, ratios = reconstruct(loaded.model, clean.x)
    row(
        name,
        levels(list(distances.values()), 2),
        levels(restored["psnr"]),
        levels(restored["right"], factor=100),
        f"{quality['psnr']:.1f} / {quality['ssim']:.3f}",
        f"{quality['seconds']:.3f}",
    )
    about = {"model": name, "sha256": loaded.sha256, **distances}
    about |= {f"denoised_{key}": values for key, values in restored.items()}
    found.append(about | {f"reconstruction_{key}": value for key, value in quality.items()})
    if arguments.reconstructions:
        captions = (f"{subset.classes[y]}, {ratio:.1f} dB" for y, ratio in zip(clean.y, ratios, strict=True))
        pairs = [SheetRow(*each) for each in zip(clean.x, images, captions, strict=True)]
        titles = ("original", "reconstruction")
        write_comparison(picture_path(name), pairs, columns=4, titles=titles, gain=DIFFERENCE_GAIN)
    if arguments.json:
        document = {"settings": settings, "references": references, "models": found}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
