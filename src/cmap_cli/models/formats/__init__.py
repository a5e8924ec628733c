"""Foreign file formats by the names that weights.toml gives them: a new one is one module and one row here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cmap_cli.models.formats.layout import Converted
    from cmap_cli.models.weights.documents import Artefact

    Reader = Callable[[Path, Artefact], Converted]

FORMATS = {
    "flax-msgpack": "openai_jax:read",  # OpenAI's JAX checkpoints
    "score-sde": "score_sde:read",  # their conversions to PyTorch
    "openai-adm": "openai_adm:read",  # OpenAI's ADM U-Net, a state dict
    "diffusers": "diffusers_file:read",  # the same network as safetensors or state dict of diffusers' UNet2DModel
    "hf-repository": "hf_repository:read",  # the folder of a consistency model of diffusers or of a classifier
    "state-dict": "classifier_state:read_pickled_classifier",  # a PyTorch state dict of a classifier
    "safetensors": "classifier_state:read_safetensors_classifier",  # the same as safetensors
    "torchvision-features": "torchvision_features:read",  # a torchvision classifier with a trunk of LPIPS
    "cifar10-binary": "cifar10:read_binary_archive",
    "cifar10-tfjs": "cifar10:read_tfjs_package",
}
"""Format -> module and function; imported when used, so that the manifest is read without torch."""


def reader_of(format: str) -> Reader:
    """The function that reads a format: (path, artefact) -> Converted (KeyError for an unknown format)."""
    module, _, function = FORMATS[format].partition(":")
    reader: Reader = getattr(import_module(f"{__name__}.{module}"), function)
    return reader
