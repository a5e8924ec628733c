"""The two containers that tensors come in: files of torch.save and safetensors. Neither runs code here."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmap_cli.errors import WeightsError


def read_pickle(path: Path) -> object:
    """What a file of ``torch.save`` holds: tensors and plain values, never code.

    Raises:
        WeightsError: it needs more than that, or is not such a file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that may not work: what does not is an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = first_line(str(error).split("WeightsUnpickler error:")[-1]).partition(" Please use")[0].rstrip(".")
        raise WeightsError(
            f"{path} holds more than tensors and plain values, and is not loaded: {reason}",
            "loading it could run code; ask its authors for safetensors or a state dict",
        ) from error
    except Exception as error:  # torch's readers raise whatever their zip, struct and tar parsers raise
        raise WeightsError(f"{path} is not a file of torch.save: {first_line(str(error))}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file (WeightsError)."""
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is not a safetensors file: {first_line(str(error))}") from error


def first_line(text: str) -> str:
    """The first line of a message, "" for an empty one."""
    return text.strip().split("\n", maxsplit=1)[0]
