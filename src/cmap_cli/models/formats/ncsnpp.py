"""OpenAI's CIFAR-10 NCSN++ recognised in a foreign state dict by its names and shapes, and put under our names.

Both public layouts follow from the order in which the network calls its modules; ``openai_jax`` and ``score_sde``
contain how each of them writes a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cmap_cli.core.consistency import SIGMA_MAX, SIGMA_MIN
from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.networks.ncsnpp import KIND, NCSNpp, build_ncsnpp

HINT = "cmap converts OpenAI's CIFAR-10 consistency models and their score_sde_pytorch conversions"

FLAX_MODULES = {  # inside a module: our name and theirs, which both foreign layouts share
    "ResnetBlockBigGANpp": {
        "norm1": "GroupNorm_0",
        "conv1": "Conv_0",
        "shift": "Dense_0",
        "norm2": "GroupNorm_1",
        "conv2": "Conv_1",
        "skip": "Conv_2",
    },
    "AttnBlockpp": {"norm": "GroupNorm_0", "query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"},
    "Downsample": {"conv": "Conv2d_0"},
}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of the network and what its foreign names are made of.

    Attributes:
        key: in the state dict of :class:`cmap_cli.models.networks.ncsnpp.NCSNppConsistency`.
        shape: there.
        index: of its module in call order.
        module: the same module numbered within its flax class, ``AttnBlockpp_5``.
        inner: the submodule that holds the tensor, ``NIN_0``; empty when the module itself does.
        leaf: ``weight``, ``bias`` or ``frequencies``.
    """

    key: str
    shape: tuple[int, ...]
    index: int
    module: str
    inner: str
    leaf: str


Naming = Callable[[TensorPlace], tuple[str, tuple[int, ...]]]
"""A place -> the tensor's foreign name and the permutation of its foreign axes that makes it ours."""


def places(network: NCSNpp) -> list[TensorPlace]:
    """Every tensor of the network, in call order."""
    found = []
    numbers: Counter[str] = Counter()
    for index, (flax_class, prefix) in enumerate(network.call_order()):
        module = f"{flax_class}_{numbers[flax_class]}"
        numbers[flax_class] += 1
        for name, tensor in network.get_submodule(prefix).state_dict().items():
            ours, _, leaf = name.rpartition(".")
            inner = FLAX_MODULES[flax_class][ours] if ours else ""
            found.append(TensorPlace(f"backbone.{prefix}.{name}", tuple(tensor.shape), index, module, inner, leaf))
    return found


def convert_ncsnpp(tensors: dict[str, Tensor], naming: Naming, source: str) -> Converted:
    """The state dict of :class:`cmap_cli.models.networks.ncsnpp.NCSNppConsistency` from a foreign one.

    Args:
        tensors: float32, by their foreign names; taken out one by one, so that memory holds the weights once.
        naming: of the foreign layout.
        source: what to call the checkpoint in an error.

    Raises:
        WeightsError: a name, shape or value is not one of a trained NCSN++.
    """
    layout = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    description = describe_ncsnpp(layout, naming, source)
    try:
        network = build_ncsnpp(description).backbone
    except WeightsError as error:
        raise WeightsError(f"{source} is not an NCSN++: {error.message}", HINT) from error
    ours = {}
    for place in places(network):
        name, axes = naming(place)
        if name not in tensors:
            raise WeightsError(f"{source} is not an NCSN++: it lacks {name}", HINT)
        if len(layout[name]) != len(axes) or tuple(layout[name][axis] for axis in axes) != place.shape:
            raise WeightsError(f"{source} is not an NCSN++: {name} has the shape {layout[name]}", HINT)
        tensor = tensors.pop(name)
        if not tensor.isfinite().all():
            raise WeightsError(f"{source} holds infinite values or NaN in {name}", "download it again")
        ours[place.key] = tensor.detach().permute(axes).clone(memory_format=torch.contiguous_format)
    if tensors:
        raise WeightsError(f"{source} is not an NCSN++: it also holds {min(tensors)[:100]}", HINT)
    return Converted(description, ours, layout_sha256(layout))


def describe_ncsnpp(layout: Mapping[str, tuple[int, ...]], naming: Naming, source: str) -> dict[str, Any]:
    """The description of the one NCSN++ that a layout can be.

    Raises:
        WeightsError: it has no Fourier frequencies.
    """
    first, _ = naming(TensorPlace("", (), 0, "GaussianFourierProjection_0", "", "frequencies"))
    if len(layout.get(first, ())) != 1:
        raise WeightsError(f"{source} is not an NCSN++: it has no vector {first}", HINT)
    # one attention in every block at 16×16 on the way down, one in the middle, one on the way up
    attentions = sum(name.endswith(("NIN_0/W", "NIN_0.W")) for name in layout)
    return {
        "kind": KIND,
        "channels": layout[first][0],
        "blocks": attentions - 2,
        "sigma_min": SIGMA_MIN,
        "sigma_max": SIGMA_MAX,
    }
