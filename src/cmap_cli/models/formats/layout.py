"""The result of every converter, and the fingerprint of a checkpoint's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Converted:
    """A foreign checkpoint, converted.

    Attributes:
        description: what the network is built from, in types of JSON.
        tensors: its state dict, contiguous and float32.
        layout_sha256: fingerprint of the names and shapes that were read, see :func:`layout_sha256`.
    """

    description: dict[str, Any]
    tensors: dict[str, Tensor]
    layout_sha256: str


def layout_sha256(shapes: Mapping[str, Sequence[int]]) -> str:
    """SHA-256 over the lines ``name 3x3x128x256``, sorted by name: tells whether two files hold the same network.

    Checkpoints of one network differ in their values and in their other entries; the fingerprint is the same.
    """
    digest = hashlib.sha256()
    for name in sorted(shapes):
        digest.update(f"{name} {'x'.join(map(str, shapes[name]))}\n".encode())
    return digest.hexdigest()
