"""State of a training run: weights, their averages, optimisers, checkpoint and log."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cmap_cli.choices import Optimiser
from cmap_cli.errors import SettingsMismatchError
from cmap_cli.files import append_text
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.training.checkpoint import CHECKPOINT, recipe_text, restore_checkpoint, save_checkpoint
from cmap_cli.training.muon import Muon

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOG = "training.jsonl"
LOG_EVERY = 100

TrainedModel = TypeVar("TrainedModel", PhotoConsistency, UNetConsistency)


class Schedule(Protocol):
    """The settings of the optimisers in a recipe; see :class:`cmap_cli.training.recipe.TrainingConfig`."""

    @property
    def optimiser(self) -> Optimiser: ...

    @property
    def iterations(self) -> int: ...

    @property
    def lr(self) -> float: ...

    def lr_at(self, iteration: int) -> float: ...

    def ema_decays_at(self, iteration: int) -> list[float]: ...


if TYPE_CHECKING:

    class Recipe(Schedule, DataclassInstance, Protocol):
        """A schedule that is a dataclass."""


def optimisers_of(backbone: nn.Module, schedule: Schedule) -> dict[str, torch.optim.Optimizer]:
    """Adam; and if the recipe has Muon, Muon for the convolutions inside the network."""
    inside = {
        name
        for name, weight in backbone.named_parameters()
        if schedule.optimiser == "muon" and weight.ndim == 4 and not name.startswith(("conv_in", "conv_out"))
    }
    weights = dict(backbone.named_parameters())
    adam = torch.optim.Adam(
        [weight for name, weight in weights.items() if name not in inside],
        schedule.lr,
        (0.9, 0.99),
        fused=weights["conv_in.weight"].is_cuda,
    )
    optimisers: dict[str, torch.optim.Optimizer] = {"adam": adam}
    if inside:
        optimisers["muon"] = Muon([weight for name, weight in weights.items() if name in inside], schedule.lr)
    return optimisers


@dataclass(frozen=True, slots=True)
class TrainingRun(Generic[TrainedModel]):
    """The state of a run.

    Attributes:
        config: the recipe.
        model: the trained model.
        averages: averages of its weights, by name.
        optimisers: optimisers by name.
        folder: folder of the checkpoint and the log.
        changeable: fields of the recipe that may differ when the run is continued.
        facts: further values that must be equal then.
    """

    config: Recipe
    model: TrainedModel
    averages: Mapping[str, TrainedModel]
    optimisers: Mapping[str, torch.optim.Optimizer]
    folder: Path
    changeable: Collection[str]
    facts: Mapping[str, object]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Everything that has weights, by name."""
        return {name: each.backbone for name, each in {"model": self.model, **self.averages}.items()}

    @property
    def recipe(self) -> str:
        """What a checkpoint must have been made with."""
        return recipe_text(self.config, self.changeable, self.facts)

    def resume(self) -> tuple[int, float]:
        """Iterations done and seconds taken, after loading the checkpoint if there is one.

        Raises:
            SettingsMismatchError: the checkpoint is of another recipe, or of more iterations.
            WeightsError: it is damaged.
        """
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0, 0.0
        done, seconds = restore_checkpoint(path, self.recipe, self.networks, self.optimisers)
        if done > self.config.iterations:
            raise SettingsMismatchError(
                f"{path} has {done} iterations already, more than {self.config.iterations}",
                "train for as long or longer, or start again with --overwrite",
            )
        return done, seconds

    def save(self, iteration: int, seconds: float) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.folder / CHECKPOINT, iteration, self.recipe, self.networks, self.optimisers, seconds)

    def update(self, iteration: int, loss: Tensor) -> None:
        """One step of the optimisers down the loss's gradient, then of the averages."""
        weights = list(self.model.backbone.parameters())
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
            optimiser.param_groups[0]["lr"] = self.config.lr_at(iteration)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        for optimiser in self.optimisers.values():
            optimiser.step()
        with torch.no_grad():
            for average, decay in zip(self.averages.values(), self.config.ema_decays_at(iteration), strict=True):
                for mean, value in zip(average.backbone.parameters(), weights, strict=True):
                    mean.lerp_(value, 1 - decay)

    def log(self, **values: object) -> None:
        """Append a line to training.jsonl."""
        append_text(self.folder / LOG, json.dumps(values) + "\n")


def start_run(
    config: Recipe,
    model: TrainedModel,
    folder: Path,
    changeable: Collection[str],
    initial: TrainedModel | None = None,
    facts: Mapping[str, object] | None = None,
) -> TrainingRun[TrainedModel]:
    """A run before its first iteration; the weights begin as the model's, or as those of ``initial``."""
    if initial is not None:
        model.backbone.load_state_dict(initial.backbone.state_dict())
    model.backbone.to(memory_format=torch.channels_last)
    averages = {name: copy.deepcopy(model).requires_grad_(False) for name in ("short", "long")}
    return TrainingRun(config, model, averages, optimisers_of(model.backbone, config), folder, changeable, facts or {})


def denoised_psnr(
    model: PhotoConsistency | UNetConsistency,
    x: Tensor,
    levels: Collection[float],
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[float, float]:
    """Mean PSNR in dB, of images in [0, 1], of the denoiser at levels t.

    Args:
        model: on the device.
        x: clean images in [-1, 1], (N, C, H, W), on the CPU.
        levels: t.
        seed: of the noise, which all levels share.
        device: to compute on.
        dtype: of autocast.
    """
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    found = {}
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for level in levels:
            noisy, sigma = (x + level * noise).to(device), torch.full((len(x),), level, device=device)
            error = (model.denoise(noisy, sigma).clamp(-1, 1).cpu() - x).square().flatten(1).mean(1) / 4
            found[level] = float((-10 * error.log10()).mean())
    return found
