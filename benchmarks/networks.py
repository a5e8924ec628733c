"""The networks that the speed benchmarks run: bundled ones by name, and NCSN++ with deterministic weights."""

from __future__ import annotations

import re
import zlib

import torch
from torch import nn

from cmap_cli.models.networks.ncsnpp import NCSNpp, NCSNppConsistency
from cmap_cli.models.store import frozen
from cmap_cli.models.zoo import load_model

FULL_SIZE = 128
RANDOM_NCSNPP = re.compile(r"ncsnpp-random(?:-(\d+))?")


def deterministic_ncsnpp(channels: int = FULL_SIZE, blocks: int = 4) -> NCSNppConsistency:
    """NCSN++ whose weights are a function of their names, scaled so that signals keep their size.

    128 channels and 4 blocks are the size of OpenAI's CIFAR-10 models, 56 million parameters. Its images mean
    nothing; its cost is that of the real ones.
    """
    backbone = NCSNpp(channels, blocks)
    with torch.no_grad():
        for name, tensor in backbone.state_dict().items():
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
            if "norm" in name and name.endswith("weight"):
                values = 1 + 0.1 * values
            elif tensor.ndim > 1:
                values /= tensor[0].numel() ** 0.5
            else:
                values *= 16 if name.endswith("frequencies") else 0.1
            tensor.copy_(values)
    return NCSNppConsistency(backbone)


def network(name: str, device: torch.device) -> nn.Module:
    """A frozen model: ``ncsnpp-random``, ``ncsnpp-random-32`` for 32 channels, or a name that ``--model`` takes."""
    match = RANDOM_NCSNPP.fullmatch(name)
    if match is None:
        model = load_model(name, device)
        assert isinstance(model, nn.Module)
        return model
    return frozen(deterministic_ncsnpp(int(match[1] or FULL_SIZE))).to(device)
