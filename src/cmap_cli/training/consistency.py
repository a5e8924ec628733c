"""Consistency training of the U-Net (Song et al. 2023; Geng et al. 2024): pairs of levels on one trajectory agree."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from cmap_cli.core.consistency import SIGMA_DATA, to_model_range
from cmap_cli.errors import SettingsMismatchError
from cmap_cli.nets.gaussian import GaussianConsistency
from cmap_cli.nets.unet import UNetConsistency

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How the U-Net is trained.

    Attributes:
        images: how many training images are seen in all.
        batch_size: images an iteration.
        widths: channels of each level of the U-Net.
        lr: peak learning rate of Adam; a linear warm-up, then a cosine down to 0.
        warmup: iterations of the warm-up.
        log_sigma_mean: mean of ln t, t clamped to [t_min, t_max].
        log_sigma_std: standard deviation of ln t.
        ratio_start: q of the first iteration; pairs are (t, r) with r = t·(1 − 1/q).
        ratio_end: q of the last iteration; it grows geometrically between.
        huber: c of the pseudo-Huber loss √(‖Δ‖² + c²) − c.
        ema_half_life: of the averaged weights, in images.
        seed: of weights, order, levels, noise and flips.
        checkpoint_every: iterations between checkpoints.
    """

    images: int = 300_000
    batch_size: int = 64
    widths: tuple[int, ...] = (64, 128, 128)
    lr: float = 6e-4
    warmup: int = 100
    log_sigma_mean: float = 0.5
    log_sigma_std: float = 2.0
    ratio_start: float = 4.0
    ratio_end: float = 16.0
    huber: float = 0.03
    ema_half_life: float = 15_000
    seed: int = 0
    checkpoint_every: int = 100

    @property
    def iterations(self) -> int:
        """How many optimiser steps there are."""
        return math.ceil(self.images / self.batch_size)

    def lr_at(self, iteration: int) -> float:
        """The learning rate of an iteration."""
        warmup = min(1.0, (iteration + 1) / self.warmup)
        return self.lr * warmup * (1 + math.cos(math.pi * iteration / self.iterations)) / 2

    def ratio_at(self, iteration: int) -> float:
        """Q of an iteration."""
        return self.ratio_start * math.exp(math.log(self.ratio_end / self.ratio_start) * iteration / self.iterations)

    def ema_decay_at(self, iteration: int) -> float:
        """The share of the old average that an iteration keeps; less in the beginning, when weights move far."""
        return min(math.exp2(-self.batch_size / self.ema_half_life), (1 + iteration) / (10 + iteration))


@dataclass(frozen=True, slots=True)
class Progress:
    """What training tells ``on_progress`` after every iteration; ``loss`` is a tensor on the device."""

    iteration: int
    iterations: int
    loss: Tensor


def consistency_loss(
    model: UNetConsistency, x: Tensor, noise: Tensor, sigma: Tensor, ratio: float, huber: float
) -> Tensor:
    """Mean over images of w(t)·(√(‖f(x_t, t) − sg f(x_r, r)‖² + c²) − c), r = max(t·(1 − 1/q), t_min).

    x_t and x_r share the noise; w(t) = √(t² + s²)/(t·s) makes a relative error of the network's output weigh the
    same at every level, where 1/(t − r) would all but ignore the high ones that purification starts from.

    Args:
        model: f.
        x: clean images in [-1, 1], (N, C, H, W).
        noise: standard normal, (N, C, H, W).
        sigma: t, (N,).
        ratio: q.
        huber: c.
    """
    lower = (sigma * (1 - 1 / ratio)).clamp_min(model.sigma_min)
    with torch.no_grad():
        target = model(x + lower[:, None, None, None] * noise, lower)
    difference = (model(x + sigma[:, None, None, None] * noise, sigma) - target).flatten(1)
    weight = (sigma**2 + SIGMA_DATA**2).sqrt() / (sigma * SIGMA_DATA)
    loss: Tensor = weight * ((difference.square().sum(1) + huber**2).sqrt() - huber)
    return loss.mean()


def training_batch(images: Tensor, config: TrainingConfig, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
    """X in [-1, 1], noise and levels of an iteration; a function of seed and iteration alone, so a resume is exact."""
    generator = Generator().manual_seed(config.seed * 1_000_003 + iteration)
    index = torch.randint(len(images), (config.batch_size,), generator=generator)
    x = to_model_range(images[index].float() / 255)
    flip = torch.rand(config.batch_size, generator=generator) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    noise = torch.randn(x.shape, generator=generator)
    log_sigma = torch.randn(config.batch_size, generator=generator) * config.log_sigma_std + config.log_sigma_mean
    return x, noise, log_sigma.exp()


def train_unet(
    images: Tensor,
    base: GaussianConsistency,
    config: TrainingConfig,
    folder: Path,
    on_progress: Callable[[Progress], None],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> UNetConsistency:
    """Train, with a checkpoint in ``folder`` from which the same call goes on.

    Args:
        images: uint8, (N, C, H, W).
        base: the Gaussian the network is preconditioned with; not trained.
        config: the recipe.
        folder: for ``checkpoint.safetensors``.
        on_progress: told after every iteration.
        device: to train on.
        dtype: of autocast.

    Returns:
        The model with averaged weights, on the device.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    torch.manual_seed(config.seed)
    model = UNetConsistency(base, config.widths).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    adam = torch.optim.Adam(model.backbone.parameters(), lr=config.lr, betas=(0.9, 0.99))
    checkpoint = folder / CHECKPOINT
    start = restore(checkpoint, config, model, average, adam) if checkpoint.exists() else 0
    for iteration in range(start, config.iterations):
        x, noise, sigma = (part.to(device) for part in training_batch(images, config, iteration))
        sigma = sigma.clamp(model.sigma_min, model.sigma_max)
        adam.param_groups[0]["lr"] = config.lr_at(iteration)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = consistency_loss(model, x, noise, sigma, config.ratio_at(iteration), config.huber)
        adam.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.backbone.parameters(), 1.0, foreach=True)
        adam.step()
        decay = config.ema_decay_at(iteration)
        with torch.no_grad():
            for mean, value in zip(average.backbone.parameters(), model.backbone.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        on_progress(Progress(iteration + 1, config.iterations, loss.detach()))
        if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
            save_checkpoint(checkpoint, iteration + 1, config, model, average, adam)
    return average


def recipe(config: TrainingConfig) -> str:
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
) -> None:
    """Write weights, averaged weights and Adam's moments as safetensors, atomically."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.backbone.named_parameters():
        state = adam.state[parameter]
        tensors[f"model.{name}"] = parameter.detach()
        tensors[f"average.{name}"] = average.backbone.get_parameter(name)
        tensors[f"exp_avg.{name}"] = state["exp_avg"]
        tensors[f"exp_avg_sq.{name}"] = state["exp_avg_sq"]
    temporary = path.with_suffix(".tmp")
    save_file(
        {k: v.cpu().contiguous() for k, v in tensors.items()},
        temporary,
        {"iteration": str(iteration), "recipe": recipe(config)},
    )
    temporary.replace(path)


def restore(
    path: Path, config: TrainingConfig, model: UNetConsistency, average: UNetConsistency, adam: torch.optim.Optimizer
) -> int:
    """Load a checkpoint into the given objects; returns the number of iterations done."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe"] != recipe(config):
            raise SettingsMismatchError(
                f"the checkpoint in {path.parent} was made with other settings: "
                f"{metadata['recipe']}, now {recipe(config)}",
                "use the same settings, or another --out, or --overwrite to start again",
            )
        iteration = int(metadata["iteration"])
        for name, parameter in model.backbone.named_parameters():
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
            average.backbone.get_parameter(name).data.copy_(file.get_tensor(f"average.{name}"))
            adam.state[parameter] = {
                "step": torch.tensor(float(iteration)),
                "exp_avg": file.get_tensor(f"exp_avg.{name}").to(parameter.device),
                "exp_avg_sq": file.get_tensor(f"exp_avg_sq.{name}").to(parameter.device),
            }
    return iteration
