"""Where a training run goes on from: weights, averaged weights and Adam's moments in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmap_cli.errors import SettingsMismatchError
from cmap_cli.files import write_with
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.training.recipe import TrainingConfig

CHECKPOINT = "checkpoint.safetensors"


def described(config: TrainingConfig) -> str:
    """What a checkpoint must have been made with to be resumed, as JSON."""
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k != "checkpoint_every"}
    return json.dumps(kept, sort_keys=True)


def save_checkpoint(
    path: Path,
    iteration: int,
    config: TrainingConfig,
    model: UNetConsistency,
    average: UNetConsistency,
    adam: torch.optim.Optimizer,
    seconds: float,
) -> None:
    """Write a checkpoint after ``iteration`` iterations and ``seconds`` (OutOfSpaceError when the disk is full)."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.backbone.named_parameters():
        state = adam.state[parameter]
        tensors[f"model.{name}"] = parameter.detach()
        tensors[f"average.{name}"] = average.backbone.get_parameter(name)
        tensors[f"exp_avg.{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
    content = {k: v.cpu().contiguous() for k, v in tensors.items()}
    metadata = {"iteration": str(iteration), "seconds": f"{seconds:.1f}", "recipe": described(config)}
    write_with(path, lambda temporary: save_file(content, temporary, metadata))


def restore(
    path: Path, config: TrainingConfig, model: UNetConsistency, average: UNetConsistency, adam: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load a checkpoint into the given objects.

    Returns:
        The number of iterations done, and the seconds they took.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe"] != described(config):
            raise SettingsMismatchError(
                f"the checkpoint in {path.parent} was made with other settings: "
                f"{metadata['recipe']}, now {described(config)}",
                "use the same settings, or another --out, or --overwrite to start again",
            )
        iteration = int(metadata["iteration"])
        for name, parameter in model.backbone.named_parameters():
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
            average.backbone.get_parameter(name).data.copy_(file.get_tensor(f"average.{name}"))
            moments = {key: file.get_tensor(f"{key}.{name}") for key in ("exp_avg", "exp_avg_sq")}
            adam.state[parameter] = {
                "step": torch.tensor(float(iteration)),
                **{key: torch.empty_like(parameter).copy_(value) for key, value in moments.items()},
            }
    return iteration, float(metadata.get("seconds", 0))
