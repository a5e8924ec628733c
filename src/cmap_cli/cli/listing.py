"""``cmap list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cmap_cli.choices import DEFAULT_CLASSIFIER, PHOTO_MODEL, SMALL_MODEL
from cmap_cli.cli import console, options

DEFAULT_FOR = {
    SMALL_MODEL: "the default for pictures of 32×32 pixels",
    PHOTO_MODEL: "the default for all other pictures",
    DEFAULT_CLASSIFIER: "the default",
}
What = Literal["models", "classifiers", "attacks", "datasets"]
OWN_DATASETS = {
    "FOLDER": "your images in one folder per class, or any images with --labels FILE.csv",
    "FILE.csv": "a table with the columns file and label",
    "FILE.npz, FILE.safetensors, FILE.npy": "arrays x and y",
}
OTHERS = {
    "models": {
        "FOLDER": "written by cmap train, or a diffusers consistency model",
        "hf:org/repo": "a diffusers consistency model of the Hugging Face hub, after cmap download-weights",
        "FILE": "TorchScript or torch.export",
        "package.module:factory": "a function of yours that returns a consistency model",
    },
    "classifiers": {
        "torchvision:NAME, timm:NAME, hf:org/repo": "after cmap download-weights",
        "FILE": "ONNX, TorchScript or torch.export, with --normalisation",
        "package.module:factory": "a function of yours that returns a torch module",
    },
}


def list_names(
    what: Annotated[
        What, typer.Argument(metavar="WHAT", help="models, classifiers, attacks or datasets.", show_default=False)
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    weights_dir: options.WeightsDir = None,
    help_all: options.HelpAll = False,
) -> None:
    """List the names that --model, --classifier, --attack and --dataset take.

    Examples:

      cmap list models

      cmap list attacks --quiet
    """
    if what == "attacks":
        rows = attack_rows()
    else:
        rows = dataset_rows() if what == "datasets" else weight_rows(what, weights_dir)
    if json:
        from cmap_cli.cli.documents import ListDocument, ListedName

        listed: dict[str, Any] = {what: tuple(ListedName(name=name, about=about) for name, about in rows)}
        console.result_json(ListDocument(**listed))
        return
    if quiet:
        for name, _ in rows:
            console.result(name)
    else:
        about = "access, the default first" if what == "attacks" else "about"
        console.table(("name", about), [*rows, *OTHERS.get(what, {}).items()])


def attack_rows() -> list[tuple[str, str]]:
    """Each attack and the accesses it can be given, its default first."""
    from cmap_cli.attacks.table import ATTACKS

    return [(name, ", ".join(entry.accesses)) for name, entry in ATTACKS.items()]


def dataset_rows() -> list[tuple[str, str]]:
    """Each data set and what it is."""
    from cmap_cli.data.table import DATASETS

    return [*((each.spelling, each.about) for each in DATASETS.values()), *OWN_DATASETS.items()]


def weight_rows(what: str, weights_dir: Path | None) -> list[tuple[str, str]]:
    """Each model or classifier of the manifest, its licence, its state here, and what it is the default for."""
    from cmap_cli.models.weights.cache import is_here
    from cmap_cli.models.weights.manifest import read_manifest

    kind = "consistency-model" if what == "models" else "classifier"
    rows = []
    for name, artefact in read_manifest().items():
        if artefact.kind != kind:
            continue
        state = "here" if is_here(artefact, weights_dir) else artefact.command
        size = "any size" if name == PHOTO_MODEL else "×".join(str(side) for side in artefact.shape[1:])
        about = f"{size}, {artefact.licence}; {state}"
        rows.append((name, f"{about}; {DEFAULT_FOR[name]}" if name in DEFAULT_FOR else about))
    return sorted(rows, key=lambda row: (row[0] not in DEFAULT_FOR, not row[1].endswith("; here")))
