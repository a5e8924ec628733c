"""OpenAI's CIFAR-10 checkpoints: a flax training state, written as one msgpack map.

An array is msgpack's extension type 1, whose payload is msgpack again: (shape, name of the dtype, bytes in C order).
The state holds the parameters four or five times over, as trained, averaged and in the optimiser; the averaged ones,
``params_ema``, are what the authors sample from. The format contains data only: reading it runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted

if TYPE_CHECKING:
    from cmap_cli.models.formats.ncsnpp import TensorPlace
    from cmap_cli.models.weights.documents import Artefact

ARRAY = 1
CHUNKED = "__msgpack_chunked_array__"
LARGEST_VALUE = 2**26  # bytes; the network's largest tensor has 4.7 MB
LIMITS = {"max_str_len": 1024, "max_array_len": 64, "max_map_len": 4096}  # what a header may claim before its bytes
AGAIN = "download it again"


def read_parameters(path: Path, key: str = "params_ema") -> dict[str, np.ndarray]:
    """One parameter tree of a checkpoint, using memory for that tree alone.

    Args:
        path: the checkpoint.
        key: its entry: ``params_ema``, ``params`` or, after consistency training, ``target_params``.

    Returns:
        Float32 arrays by their path in the tree, ``AttnBlockpp_0/NIN_0/W``.

    Raises:
        WeightsError: the file is not such a checkpoint, or is incomplete.
    """
    tree = None
    with path.open("rb") as file:
        stream = msgpack.Unpacker(
            file, ext_hook=unpack_float_array, strict_map_key=False, max_buffer_size=LARGEST_VALUE, **LIMITS
        )
        try:
            entries = stream.read_map_header()
        except (ValueError, msgpack.UnpackException) as error:
            raise WeightsError(f"the checkpoint {path} is not a msgpack map, as flax writes it") from error
        try:
            for _ in range(entries):
                if stream.unpack() == key:
                    tree = stream.unpack()
                else:
                    stream.skip()
        except (msgpack.OutOfData, msgpack.BufferFull) as error:
            if file.read(1):
                raise WeightsError(f"the checkpoint {path} holds a value larger than any of an NCSN++") from error
            raise WeightsError(f"the checkpoint {path} is cut short", AGAIN) from error
        except WeightsError as error:
            raise WeightsError(f"the checkpoint {path} cannot be read: {error.message}", error.hint) from error
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise WeightsError(f"the checkpoint {path} is not valid msgpack: {error}", AGAIN) from error
        if surplus := path.stat().st_size - stream.tell():
            raise WeightsError(f"the checkpoint {path} has {surplus} bytes after its end", AGAIN)
    if tree is None:
        raise WeightsError(f"the checkpoint {path} has no entry {key}", "give a training state as flax writes it")
    return dict(leaves(tree, f"the checkpoint {path}"))


def unpack_float_array(code: int, payload: bytes) -> Any:
    """The array in an extension type 1; others as they are.

    Raises:
        WeightsError: it is not float32, or the number of its bytes does not fit its shape.
    """
    if code != ARRAY:
        return msgpack.ExtType(code, payload)
    match msgpack.unpackb(payload, raw=True, max_array_len=64):
        case [[*shape], bytes(dtype), bytes(data)] if all(type(size) is int and size > 0 for size in shape):
            if dtype != b"float32":
                raise WeightsError(f"an array is {dtype.decode(errors='replace')[:20]}, not float32")
            if len(data) != 4 * math.prod(shape):
                raise WeightsError(f"an array of the shape {tuple(shape)} has {len(data)} bytes", AGAIN)
            return np.frombuffer(data, "<f4").reshape(shape).copy()
        case _:
            raise WeightsError("an array has no shape, dtype and bytes", AGAIN)


def leaves(tree: Any, source: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of nested maps with their paths.

    Raises:
        WeightsError: something else is in the tree.
    """
    pending = [("", tree)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, np.ndarray):
            yield path, value
        elif not isinstance(value, dict):
            raise WeightsError(f"{source} holds no array in {path or 'its parameters'} but {type(value).__name__}")
        elif CHUNKED in value:
            raise WeightsError(f"{source} holds {path} in chunks, which cmap does not read")
        else:
            pending.extend((f"{path}/{name}".removeprefix("/"), inner) for name, inner in value.items())


def read(path: Path, artefact: Artefact) -> Converted:
    """As :func:`convert_jax`."""
    return convert_jax(path)


def convert_jax(path: Path) -> Converted:
    """An OpenAI checkpoint as our NCSN++.

    Raises:
        WeightsError: the file is not such a checkpoint.
    """
    import torch

    from cmap_cli.models.formats import ncsnpp

    tensors = {name: torch.from_numpy(array) for name, array in read_parameters(path).items()}
    return ncsnpp.convert_ncsnpp(tensors, flax_name, f"the checkpoint {path}")


def flax_name(place: TensorPlace) -> tuple[str, tuple[int, ...]]:
    """Path in the tree, and axes: convolutions are (height, width, in, out), matrices (in, out)."""
    owner = place.inner or place.module
    axes: tuple[int, ...] = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(place.shape), (0,))
    if owner.startswith("NIN"):
        leaf = "W" if place.leaf == "weight" else "b"
    elif place.leaf == "weight" and not owner.startswith("Conv2d"):
        leaf = "scale" if owner.startswith("GroupNorm") else "kernel"
    else:
        leaf = "W" if place.leaf == "frequencies" else place.leaf
    return "/".join(filter(None, (place.module, place.inner, leaf))), axes
