"""Networks that bring their own code: TorchScript, torch.export and ONNX files."""

from __future__ import annotations

import json
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cmap_cli.errors import WeightsError, pip_install

DECLARATION = "cmap.json"
"""The extra file of a TorchScript or torch.export archive in which its author declares what cmap must know."""
FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True, slots=True)
class Program:
    """A network read from a file, and what the file declares (the JSON object of its ``cmap.json``, {} if none)."""

    module: nn.Module
    declared: dict[str, Any]


def load_program(path: Path, device: torch.device | str = "cpu") -> Program:
    """A TorchScript or torch.export archive. Both run their own graph, but no Python and no unrestricted pickle.

    Raises:
        WeightsError: it is neither, or torch cannot load it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:  # of odd versions and names
        raise not_a_program(path, "it is no archive") from error
    extra = {DECLARATION: ""}
    try:
        with only_weights_unpickled(), unlogged(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, and still what people have
            if any(name.endswith("/archive_format") for name in names):
                module: nn.Module = torch.export.load(path, extra_files=extra).module().to(device)
            elif any("/code/" in name for name in names):
                load: Any = torch.jit.load  # without annotations
                module = load(path, map_location=device, _extra_files=extra).eval()
            else:
                raise not_a_program(path, "it holds weights without a network, perhaps a state dict")
    except WeightsError:
        raise
    except Exception as error:  # torch raises whatever its C++ and schema parsers raise
        reason = str(error).splitlines()[0]
        if "warnings above" in reason:  # which are not printed
            reason = "it is damaged, or of another version of PyTorch"
        raise WeightsError(f"{path} cannot be loaded: {reason}") from error
    return Program(module, parse_declaration(path, extra[DECLARATION]))


def not_a_program(path: Path, reason: str) -> WeightsError:
    """The error for a file that is neither TorchScript nor torch.export."""
    return WeightsError(
        f"{path} is neither TorchScript nor torch.export: {reason}",
        "save it with torch.export.save, or give a function that builds it as package.module:factory",
    )


def parse_declaration(path: Path, content: str | bytes) -> dict[str, Any]:
    """The JSON object of an archive's ``cmap.json`` (WeightsError if it is none)."""
    if not content:
        return {}
    try:
        declared = json.loads(content)
        if not isinstance(declared, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the {DECLARATION} in {path} cannot be read: {error}") from error
    return declared


@contextmanager
def unlogged() -> Iterator[None]:
    """Inside the block torch.export prints no tracebacks for files that it cannot read."""
    logger = logging.getLogger("torch.export")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def only_weights_unpickled() -> Iterator[None]:
    """Inside the block every ``torch.load`` is restricted to tensors and plain values, whatever its caller asks for.

    torch.export.load otherwise falls back to unrestricted unpickling for example inputs and constants.
    """
    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_WEIGHTS_ONLY]
        else:
            os.environ[FORCE_WEIGHTS_ONLY] = before


class ONNXNetwork(nn.Module):
    """An ONNX classifier behind onnxruntime; it has no gradients.

    Args:
        path: the .onnx file.

    Raises:
        WeightsError: onnxruntime is not installed, or cannot load the file, or the file has not one image input.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            onnxruntime = import_module("onnxruntime")
        except ModuleNotFoundError as error:
            raise WeightsError(f"{path} needs onnxruntime", pip_install("onnx")) from error
        try:
            self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise WeightsError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise WeightsError(f"{path} has not one input of shape (N, C, H, W) but {[each.shape for each in inputs]}")
        self.input_name = inputs[0].name
        self.batch, _, *size = inputs[0].shape
        self.size = (size[0], size[1]) if all(isinstance(side, int) for side in size) else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32 -> logits (N, classes)."""
        pixels = x.detach().to("cpu", torch.float32).numpy()
        parts = np.split(pixels, len(pixels)) if self.batch == 1 else [pixels]
        logits = [self.session.run(None, {self.input_name: part})[0] for part in parts]
        return torch.from_numpy(np.concatenate(logits)).to(x.device)
