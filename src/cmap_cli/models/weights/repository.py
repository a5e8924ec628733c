"""The files of a repository of the Hugging Face hub that a consistency model or a classifier consists of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from cmap_cli.errors import WeightsError
from cmap_cli.files import make_folder
from cmap_cli.models.weights.documents import DownloadSource
from cmap_cli.models.weights.fetch import MissingFileError, OnBytes, Patience
from cmap_cli.models.weights.hub import fetch_from_hub
from cmap_cli.runs.documents import read_document

SMALL_FILE = (1, 16 << 20)


class Config(msgspec.Struct):
    """The entry of a config.json that shows what a repository contains: classifiers name their architecture."""

    architectures: list[str] | None = None


def download_repository(source: DownloadSource, folder: Path, patience: Patience, on_bytes: OnBytes) -> None:
    """Download a diffusers consistency model or a transformers classifier into a folder (errors of ``fetch``)."""
    repository, _, revision = source.rest.partition("@")

    def get(path: str, size: tuple[int, int] = SMALL_FILE) -> Path:
        target = folder / path
        make_folder(target.parent)
        fetch_from_hub(repository, revision, path, target, size, patience, on_bytes)
        return target

    try:
        get("unet/config.json")
    except MissingFileError:
        config = read_document(get("config.json"), Config, WeightsError)
        if config.architectures is not None:
            get("preprocessor_config.json")
            get("model.safetensors", source.size)
        else:
            get("diffusion_pytorch_model.safetensors", source.size)
        return
    with suppress(MissingFileError):
        get("scheduler/scheduler_config.json")
    get("unet/diffusion_pytorch_model.safetensors", source.size)
