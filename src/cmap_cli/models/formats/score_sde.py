"""PyTorch conversions of OpenAI's CIFAR-10 checkpoints in score_sde_pytorch's layout, the CMAP authors' among them.

``all_modules.{i}`` is the i-th module in call order; inside, modules have their flax names and leaves their PyTorch
names, except that attention keeps flax's (in, out) matrices ``NIN_k.W``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import ncsnpp
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.formats.layout import Converted
from cmap_cli.models.formats.ncsnpp import TensorPlace
from cmap_cli.models.formats.tensor_files import read_pickle

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact

UNUSED = "sigmas"  # a buffer of score_sde_pytorch that these models do not use


def read(path: Path, artefact: Artefact) -> Converted:
    """A file of torch.save; as :func:`convert_score_sde`."""
    return convert_score_sde(unwrap(read_pickle(path)))


def convert_score_sde(state: Mapping[str, Tensor]) -> Converted:
    """A score_sde_pytorch state dict as our NCSN++.

    Args:
        state: float32 tensors, with or without the prefix ``module.`` of a data-parallel model.

    Returns:
        As the fields say; the fingerprint leaves out the prefix and ``sigmas``.

    Raises:
        WeightsError: it is not an NCSN++ of OpenAI's consistency models.
    """
    tensors = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    tensors.pop(UNUSED, None)
    for key, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            raise WeightsError(f"the state dict holds no float32 tensor in {key[:100]}", ncsnpp.HINT)
    return ncsnpp.convert_ncsnpp(tensors, score_sde_name, "the state dict")


def score_sde_name(place: TensorPlace) -> tuple[str, tuple[int, ...]]:
    """Key in the state dict, and axes."""
    attention_matrix = place.inner.startswith("NIN") and place.leaf == "weight"
    if place.leaf == "frequencies" or attention_matrix:
        leaf = "W"
    else:
        leaf = "b" if place.inner.startswith("NIN") else place.leaf
    axes = (1, 0) if attention_matrix else tuple(range(len(place.shape)))
    return ".".join(filter(None, (f"all_modules.{place.index}", place.inner, leaf))), axes
