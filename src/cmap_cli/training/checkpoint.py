"""Where a training run goes on from: weights, averages and the optimisers' state in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.errors import SettingsMismatchError
from cmap_cli.files import write_with

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKPOINT = "checkpoint.safetensors"


def described(config: DataclassInstance, changeable: Collection[str] = ("checkpoint_every",)) -> str:
    """What a checkpoint must have been made with to be resumed, as JSON: all fields but ``changeable`` ones."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in changeable}
    return json.dumps(kept, sort_keys=True)


def save_checkpoint(
    path: Path,
    iteration: int,
    recipe: str,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    seconds: float,
) -> None:
    """Write a checkpoint (OutOfSpaceError when the disk is full).

    Args:
        path: of the checkpoint.
        iteration: how many iterations are done.
        recipe: of :func:`described`.
        networks: the trained one and its averages, by name.
        optimisers: by name.
        seconds: of training until now.
    """
    tensors = {
        f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
    }
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": value for key, value in state.items()}
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"iteration": str(iteration), "seconds": f"{seconds:.1f}", "recipe": recipe}
    write_with(path, lambda temporary: save_file(content, temporary, metadata))


def restore(
    path: Path,
    recipe: str,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
) -> tuple[int, float]:
    """Load a checkpoint into the given objects.

    Returns:
        The number of iterations done, and the seconds they took.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe"] != recipe:
            raise SettingsMismatchError(
                f"the checkpoint in {path.parent} was made with other settings: {metadata['recipe']}, now {recipe}",
                "use the same settings, or another --out, or --overwrite to start again",
            )
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, network in networks.items():
        network.load_state_dict(below(tensors, name))
    for name, optimiser in optimisers.items():
        load_optimiser(optimiser, below(tensors, name))
    return int(metadata["iteration"]), float(metadata.get("seconds", 0))


def below(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name`` and a dot, without these."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser its saved state, named "index.key", each tensor laid out in memory as its parameter is."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        like = parameters[int(index)]
        same = value.shape == like.shape
        state.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value) if same else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
