"""An output folder of a benchmark that never ran: realistic records and pictures for the report.

``python -m tests.fake_benchmark FOLDER [--no-through | --full] [--n N]`` writes one and its report, to look at.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
EXAMPLES = Path(__file__).parent.parent / "examples" / "images" / "clean"
TRANSFER_ATTACKS = ("autoattack@transfer", "pgd@surrogate")
THROUGH_ATTACKS = ("autoattack-rand@bpda", "pgd@white-box")
CONTROLS = ("noise@black-box", "fgsm@white-box")
ALL_ATTACKS = (*TRANSFER_ATTACKS, *THROUGH_ATTACKS, "square@black-box", "disruption@adaptive")
STRENGTH = {"transfer": 0.25, "surrogate": 0.35, "bpda": 0.6, "white-box": 0.85, "black-box": 0.4, "adaptive": 0.7}
WEAKER = {"noise": 0.05, "fgsm": 0.5}
KEPT = {"cmap": 1.0, "onestep": 0.75, "jpeg": 0.3, "none": 0.0}
EPS = ("4/255", "8/255")
DRAWS = 5
FLAGS = [
    {
        "name": "white-box beats transfer",
        "fired": False,
        "what": "Accuracy falls from transfer to white-box.",
        "attack": None,
    },
    {
        "name": "autoattack: randomised defence",
        "fired": True,
        "what": "The classifier gives different answers to the same image; the standard version is not meant for it.",
        "attack": "autoattack@transfer",
    },
    {
        "name": "zero gradients",
        "fired": False,
        "what": "No gradient was zero or not finite.",
        "attack": "pgd@white-box",
    },
    {
        "name": "chance",
        "fired": False,
        "what": "needs PGD at eps 0.5 or more",
        "attack": None,
        "checked": False,
    },
]


def write_benchmark(
    folder: Path,
    *,
    n: int = 20,
    attacks: tuple[str, ...] = TRANSFER_ATTACKS + THROUGH_ATTACKS,
    defenses: tuple[str, ...] = ("cmap", "onestep"),
    eps: tuple[str, ...] = EPS,
    pictures: bool = True,
    seed: int = 0,
    classes: list[str] = CLASSES,
    **settings: Any,
) -> Path:
    """Write benchmark.json, records.jsonl and one file of images an attack and eps; same arguments, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    records = list(fake_records(rng, n, attacks, defenses, eps))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    run = {
        "schema": "cmap.benchmark/1",
        "settings": {
            "dataset": "cifar10", "split": "test", "n": n, "indices": [7 * image for image in range(n)],
            "classifier": "pyautoattack-resnet18", "defenses": list(defenses), "attacks": list(attacks), "norm": "Linf",
            "eps": list(eps), "seed": 0, "protocol": "end-to-end", "reevaluations": DRAWS, "preset": "fast",
            "purify": {"num_latents": 3, "steps": 10, "lr": 0.1}, "model": "cifar10-gaussian",
            "budget": {"steps": 100, "restarts": 1, "eot": 20, "queries": 5000, "disruption": 1000, "unroll": None},
        } | settings,
        "provenance": {
            "command": "cmap benchmark --dataset cifar10 --out 'my <results> & more' --attack autoattack",
            "version": "0.1.0", "torch": "2.6.0", "pyautoattack": "0.2.0", "python": "3.11.7", "device": "cpu",
            "started": "2025-05-04T10:11:12+00:00",
            "weights": {"cifar10-gaussian": "3f" * 32, "pyautoattack-resnet18": "a9" * 32}, "classes": classes,
        },
        "flags": FLAGS,
    }  # fmt: skip
    (folder / "benchmark.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
    if pictures:
        write_pictures(folder, n, attacks, eps)
    return folder


def fake_records(
    rng: random.Random, n: int, attacks: tuple[str, ...], defenses: tuple[str, ...], eps: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Clean records and attacked ones; a larger eps, a better informed attacker and a weaker defence all cost."""
    hardness = [rng.random() for _ in range(n)]
    bare_clean = [label_of(image) if rng.random() < 0.95 else other(rng, image) for image in range(n)]
    for defense in defenses:
        for image in range(n):
            draws = [
                label_of(image) if rng.random() < 0.97 - 0.2 * hardness[image] ** 4 else other(rng, image)
                for _ in range(count(defense))
            ]
            if defense == "none":
                draws = [bare_clean[image]]
            yield record(image, defense, "clean", undefended=bare_clean[image], draws=draws)
    for spelled in eps:
        value = float(Fraction(spelled))
        for name in (*attacks, *CONTROLS):
            attack, access = name.split("@")
            broken = [rng.random() < 0.92 for _ in range(n)]
            for defense in defenses:
                for image in range(n):
                    strength = STRENGTH[access] * WEAKER.get(attack, 1) * value * 255 / 8
                    hurt = strength * (1 + hardness[image]) / 1.6 / (0.4 + KEPT[defense])
                    wrong = other(rng, image)
                    draws = [wrong if rng.random() < hurt else label_of(image) for _ in range(count(defense))]
                    unchanged = access == "bpda" and hurt < 0.15
                    bare = (
                        bare_clean[image]
                        if unchanged or attack == "noise" or not broken[image]
                        else other(random.Random(image), image)
                    )
                    if defense == "none":
                        draws = [bare]
                    success = any(draw != label_of(image) for draw in draws)
                    yield record(
                        image, defense, attack, access=access, norm="Linf", eps=spelled, eps_value=value,
                        control=attack in WEAKER, distance=0.0 if unchanged else value, undefended=bare, draws=draws,
                        reported_success=success, unchanged=unchanged, seconds=0.25, forward=100, backward=100,
                        gradient={"zero": 0.002, "not_finite": 0, "cosine": 0.4} if access == "white-box" else None,
                        file=f"attacked/{attack}-{access}-{spelled.replace('/', '_')}.safetensors", row=image,
                    )  # fmt: skip


def record(image: int, defense: str, attack: str, label: int | None = None, **fields: Any) -> dict[str, Any]:
    """A record of the schema "cmap.record/1"; what is not given is as for a clean image."""
    label = label_of(image) if label is None else label
    clean = {
        "image": image, "key": f"cifar10/test/{7 * image}", "label": label, "defense": defense, "attack": attack,
        "access": None, "norm": None, "eps": None, "eps_value": None, "control": False, "distance": 0.0,
        "undefended": label, "draws": [label], "reported_success": False, "unchanged": False, "gradient": None,
        "seconds": 0.0, "forward": 0, "backward": 0, "file": None, "row": None,
    }  # fmt: skip
    return clean | fields


def label_of(image: int) -> int:
    """True class of an image."""
    return (3 * image) % 10


def other(rng: random.Random, image: int) -> int:
    """A wrong class."""
    return (label_of(image) + rng.randrange(1, 10)) % 10


def count(defense: str) -> int:
    """Draws of a defence."""
    return 1 if defense == "none" else DRAWS


def write_pictures(folder: Path, n: int, attacks: tuple[str, ...], eps: tuple[str, ...]) -> None:
    """The example images, attacked with noise of the size of the ball and smoothed a little."""
    (folder / "attacked").mkdir(exist_ok=True)
    x = np.stack([example_image(image) for image in range(n)])
    y = np.array([label_of(image) for image in range(n)], dtype=np.int64)
    for spelled in eps:
        value = float(Fraction(spelled))
        for place, name in enumerate((*attacks, *CONTROLS)):
            rng = np.random.default_rng(place)
            sign = np.repeat(np.repeat(rng.integers(0, 2, (n, 3, 16, 16)), 2, 2), 2, 3) * 2 - 1
            x_adv = np.clip(x + value * sign, 0, 1).astype(np.float32)
            blurred = (x_adv + np.roll(x_adv, 1, 2) + np.roll(x_adv, 1, 3) + np.roll(x_adv, (1, 1), (2, 3))) / 4
            path = folder / "attacked" / f"{name.replace('@', '-')}-{spelled.replace('/', '_')}.safetensors"
            save_file({"x": x, "x_adv": x_adv, "y": y, "purified": blurred.astype(np.float32)}, path)


def example_image(image: int) -> NDArray[np.float32]:
    """One of the example images, (3, 32, 32) in [0, 1]."""
    paths = sorted(EXAMPLES.glob("*.png"))
    with Image.open(paths[image % len(paths)]) as picture:
        return (np.asarray(picture.convert("RGB"), dtype=np.float32) / 255).transpose(2, 0, 1).copy()


def main() -> None:
    """Write a run and its report."""
    from cmap_cli.benchmarking.report import write_report

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--no-through", action="store_true", help="only transfer and surrogate attacks")
    parser.add_argument("--full", action="store_true", help="every access, three defences and three eps")
    parser.add_argument("--n", type=int, default=20)
    options = parser.parse_args()
    attacks = TRANSFER_ATTACKS if options.no_through else TRANSFER_ATTACKS + THROUGH_ATTACKS
    if options.full:
        full = {"attacks": ALL_ATTACKS, "defenses": ("cmap", "onestep", "jpeg"), "eps": ("1/255", "4/255", "8/255")}
        write_report(write_benchmark(options.folder, n=options.n, **full))
    else:
        write_report(write_benchmark(options.folder, n=options.n, attacks=attacks))


if __name__ == "__main__":
    main()
