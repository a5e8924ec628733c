"""The checkpoint of a training run: weights, averages and the optimisers' state in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cmap_cli.errors import SettingsMismatchError, WeightsError
from cmap_cli.files import write_with
from cmap_cli.models.store import read_tensors
from cmap_cli.runs.documents import decode_json
from cmap_cli.runs.settings import differing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CHECKPOINT = "checkpoint.safetensors"
DAMAGED = "restore a copy of it, or start again with --overwrite"


def recipe_text(config: DataclassInstance, changeable: Collection[str], facts: Mapping[str, object]) -> str:
    """The recipe and facts that must be equal for a checkpoint to be resumed, as JSON.

    Args:
        config: the recipe.
        changeable: fields of the recipe that may differ.
        facts: further values that must be equal.
    """
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in changeable}
    return json.dumps(kept | dict(facts), sort_keys=True)


def save_checkpoint(
    path: Path,
    iteration: int,
    recipe: str,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, torch.optim.Optimizer],
    seconds: float,
) -> None:
    """Write a checkpoint (OutOfSpaceError if the disk is full).

    Args:
        path: path of the checkpoint.
        iteration: number of finished iterations.
        recipe: the result of :func:`recipe_text`.
        networks: the trained network and its averages, by name.
        optimisers: optimisers by name.
        seconds: seconds of training so far.
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


def restore_checkpoint(
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
        WeightsError: the file is damaged, or not a checkpoint of such a run.
    """
    try:
        metadata, tensors = read_tensors(path)
    except WeightsError as error:
        raise WeightsError(error.message, DAMAGED) from error
    if "recipe" not in metadata:
        raise WeightsError(f"{path} is not a checkpoint of cmap train", DAMAGED)
    refuse_other_recipe(path, metadata["recipe"], recipe)
    try:
        for name, network in networks.items():
            network.load_state_dict(tensors_of(tensors, name))
        for name, optimiser in optimisers.items():
            load_optimiser(optimiser, tensors_of(tensors, name))
        return int(metadata["iteration"]), float(metadata.get("seconds", 0))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged: {' '.join(str(error).split())[:200]}", DAMAGED) from error


def refuse_other_recipe(path: Path, stored: str, recipe: str) -> None:
    """Refuse a checkpoint of another recipe (SettingsMismatchError); a field that it lacks is not compared."""
    before, now = decode_json(stored, dict[str, Any], f"the recipe in {path}", WeightsError), json.loads(recipe)
    if changed := [key for key in differing(before, now) if key in before]:
        listed = ", ".join(f"{key} was {before[key]!r} and is now {now.get(key)!r}" for key in changed)
        raise SettingsMismatchError(
            f"the checkpoint in {path.parent} was made with other settings: {listed}",
            "use the same settings, or another --out, or --overwrite to start again",
        )


def tensors_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``name`` and a dot, with this prefix removed."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state, named "index.key"; each tensor gets the memory layout of its parameter."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        like = parameters[int(index)]
        if value.ndim and value.shape != like.shape:
            raise ValueError(f"the optimiser's {name} has shape {tuple(value.shape)}, not {tuple(like.shape)}")
        state.setdefault(int(index), {})[key] = torch.empty_like(like).copy_(value) if value.ndim else value
    if len(state) != len(parameters):
        raise ValueError(f"the optimiser has the state of {len(state)} tensors, not of {len(parameters)}")
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
