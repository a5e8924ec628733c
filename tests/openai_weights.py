"""OpenAI's CIFAR-10 NCSN++ for tests: its layouts, deterministic weights, checkpoints as flax writes them.

fixtures/openai-ncsnpp holds what the original JAX code computes with these weights, at full size and at 1/550 of it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch

FIXTURES = Path(__file__).parent / "fixtures" / "openai-ncsnpp"
TINY_STATE = FIXTURES / "cd" / "checkpoints" / "checkpoint_80"
TINY_STATE_WITH_TARGET = FIXTURES / "ct" / "checkpoints" / "checkpoint_80"


def layout(size: str) -> dict[str, list[int]]:
    """Shapes by flax path of the ``tiny`` or the ``full`` network."""
    return json.loads((FIXTURES / f"shapes_{size}.json").read_text())


def reference(size: str) -> dict[str, torch.Tensor]:
    """Noise levels t, unit latents z, and by the original code F(z, ¼·ln t), raw, and f(z·t, t), consistency."""
    with np.load(FIXTURES / f"ref_{size}.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in ("t", "z", "raw", "consistency")}
    return {name: a.permute(0, 3, 1, 2).contiguous() if a.ndim == 4 else a for name, a in arrays.items()}


def deterministic_parameters(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The weights of the references: a function of path and shape, scaled so that signals keep their size."""
    parameters = {}
    for path, shape in shapes.items():
        values = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(shape).astype(np.float32)
        leaf = path.rpartition("/")[2]
        if leaf in ("kernel", "weight"):
            values *= np.float32(1 / np.sqrt(np.prod(shape[:-1])))
        elif leaf == "W":
            values *= np.float32(1 / np.sqrt(shape[0])) if len(shape) == 2 else np.float32(16)
        elif leaf == "scale":
            values = 1 + np.float32(0.1) * values
        else:
            values *= np.float32(0.1)
        parameters[path] = values
    return parameters


def write_checkpoint(
    path: Path, params_ema: Mapping[str, Any], /, *, with_target: bool = False, **entries: Any
) -> None:
    """Write a flax training state: ``params`` is half of ``params_ema``, so that the wrong choice is noticed.

    Args:
        path: of the file.
        params_ema: arrays by flax path.
        with_target: whether to write ``target_params`` too, as consistency training does.
        entries: replace those of the state; None leaves one out.
    """
    half = nest({name: a * np.float32(0.5) if isinstance(a, np.ndarray) else a for name, a in params_ema.items()})
    state = {
        "step": np.array(80, np.int32),
        "lr": np.array(4e-4, np.float32),
        "ema_rate": np.array(0.999, np.float32),
        "params": half,
        **({"target_params": half} if with_target else {}),
        "params_ema": nest(params_ema),
        "model_state": {},
        "opt_state": {"0": {"count": np.array(0, np.int32)}, "1": {}},
        "rng_state": {"0": np.array([0, 42], np.uint32)},
    } | entries
    path.write_bytes(msgpack.packb({k: v for k, v in state.items() if v is not None}, default=encode))


def encode(array: np.ndarray) -> msgpack.ExtType:
    """An array as flax encodes it."""
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"A/B": value}`` -> ``{"A": {"B": value}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *branches, leaf = path.split("/")
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = value
    return tree
