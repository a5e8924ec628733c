"""cmap: purify adversarial images with a consistency model, and measure honestly what it buys.

The functions here are the public API, stable within a minor version; they take the names and defaults of the command
line's options. Everything is imported at its first use, so that ``import cmap_cli`` is quick and free of torch.

The method of "Adversarial Purification by Consistency-aware Latent Space Optimization on Data Manifolds"
(arXiv 2412.08394) is in :mod:`cmap_cli.core`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmap_cli.benchmarking.certificates.run import certify
    from cmap_cli.benchmarking.run import attack, benchmark
    from cmap_cli.core.types import ConsistencyModel
    from cmap_cli.errors import CmapError
    from cmap_cli.models.classifiers import load_classifier
    from cmap_cli.models.zoo import load_model
    from cmap_cli.purify.art import ArtPreprocessor
    from cmap_cli.purify.images import PurifiedImages, Purify, purify_images
    from cmap_cli.purify.run import PurifyResult, purify_folder
    from cmap_cli.purify.settings import PurifySettings
    from cmap_cli.training.run import train
    from cmap_cli.training.settings import TrainSettings

__version__ = "0.1.0"

_HOMES = {
    "ArtPreprocessor": "purify.art",
    "CmapError": "errors",
    "ConsistencyModel": "core.types",
    "PurifiedImages": "purify.images",
    "Purify": "purify.images",
    "PurifyResult": "purify.run",
    "PurifySettings": "purify.settings",
    "TrainSettings": "training.settings",
    "attack": "benchmarking.run",
    "benchmark": "benchmarking.run",
    "certify": "benchmarking.certificates.run",
    "load_classifier": "models.classifiers",
    "load_model": "models.zoo",
    "purify_folder": "purify.run",
    "purify_images": "purify.images",
    "train": "training.run",
}
"""Module of each public name."""

__all__ = [
    "ArtPreprocessor",
    "CmapError",
    "ConsistencyModel",
    "PurifiedImages",
    "Purify",
    "PurifyResult",
    "PurifySettings",
    "TrainSettings",
    "attack",
    "benchmark",
    "certify",
    "load_classifier",
    "load_model",
    "purify_folder",
    "purify_images",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
