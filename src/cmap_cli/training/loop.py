"""Training of the U-Net: denoising pre-training, then consistency tuning (Geng et al. 2024), resumable."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from cmap_cli.core.consistency import to_model_range
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.training.checkpoint import CHECKPOINT, described, restore, save_checkpoint
from cmap_cli.training.losses import consistency_loss, denoising_loss
from cmap_cli.training.recipe import TrainingConfig


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What training tells ``on_progress`` after every iteration; ``loss`` is a tensor on the device."""

    iteration: int
    iterations: int
    loss: Tensor


def training_batch(images: Tensor, config: TrainingConfig, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
    """X in [-1, 1], noise and levels of an iteration; a function of seed and iteration alone, so a resume is exact.

    All are drawn where the images are; another kind of device draws other numbers.
    """
    place = images.device
    generator = Generator(place).manual_seed(config.seed * 1_000_003 + iteration)
    index = torch.randint(len(images), (config.batch_size,), generator=generator, device=place)
    x = to_model_range(images[index].float() / 255)
    flip = torch.rand(config.batch_size, generator=generator, device=place) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    noise = torch.randn(x.shape, generator=generator, device=place)
    levels = torch.randn(config.batch_size, generator=generator, device=place)
    denoised, tuned = levels.tensor_split([config.denoised_at(iteration)])
    return (
        x,
        noise,
        torch.cat(
            [
                (denoised * config.denoising_std + config.denoising_mean).exp(),
                (tuned * config.consistency_std + config.consistency_mean).exp().clamp_min(config.tuned_from),
            ]
        ),
    )


def train_unet(
    images: Tensor,
    base: GaussianConsistency,
    config: TrainingConfig,
    folder: Path,
    on_progress: Callable[[TrainingStep], None],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    compiled: bool = False,
) -> tuple[UNetConsistency, float]:
    """Train, with a checkpoint in ``folder`` from which the same call goes on.

    Args:
        images: uint8, (N, C, H, W); moved to the device, where batches are drawn.
        base: the Gaussian the network is preconditioned with; not trained.
        config: the recipe.
        folder: for ``checkpoint.safetensors``.
        on_progress: told after every iteration.
        device: to train on.
        dtype: of autocast.
        compiled: whether torch.compile makes one kernel of many.

    Returns:
        The model with averaged weights, on the device, and the seconds of all runs that made it.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    torch.manual_seed(config.seed)
    model = UNetConsistency(base, config.widths, config.blocks, config.preconditioning).to(device)
    model.backbone.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    weights, averaged = list(model.backbone.parameters()), list(average.backbone.parameters())
    adam = torch.optim.Adam(weights, lr=config.lr, betas=(0.9, 0.99), fused=device.type == "cuda")
    tuning, denoising = consistency_loss, denoising_loss
    if compiled:
        tuning, denoising = torch.compile(tuning), torch.compile(denoising)
    images = images.to(device)
    checkpoint = folder / CHECKPOINT
    networks, optimisers = {"model": model.backbone, "average": average.backbone}, {"adam": adam}
    recipe = described(config)
    start, before = restore(checkpoint, recipe, networks, optimisers) if checkpoint.exists() else (0, 0.0)
    began = time.monotonic() - before
    for iteration in range(start, config.iterations):
        batch = training_batch(images, config, iteration)
        adam.param_groups[0]["lr"] = config.lr_at(iteration)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = batch_loss(model, batch, config, iteration, denoising, tuning)
        adam.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        adam.step()
        with torch.no_grad():
            for mean, value in zip(averaged, weights, strict=True):
                mean.lerp_(value, 1 - config.ema_decay_at(iteration))
        on_progress(TrainingStep(iteration + 1, config.iterations, loss.detach()))
        if (iteration + 1) % config.checkpoint_every == 0 or iteration + 1 == config.iterations:
            save_checkpoint(checkpoint, iteration + 1, recipe, networks, optimisers, time.monotonic() - began)
    return average, time.monotonic() - began


def batch_loss(
    model: UNetConsistency,
    batch: tuple[Tensor, Tensor, Tensor],
    config: TrainingConfig,
    iteration: int,
    denoising: Callable[..., Tensor],
    tuning: Callable[..., Tensor],
) -> Tensor:
    """The loss of an iteration: denoising of the first images of its batch, consistency tuning of the others."""
    x, noise, sigma = batch[0], batch[1], batch[2].clamp(model.sigma_min, model.sigma_max)
    first = config.denoised_at(iteration)
    loss = torch.zeros((), device=x.device)
    if first:
        loss = loss + denoising(model, x[:first], noise[:first], sigma[:first])
    if first < len(x):
        ratio = torch.tensor(config.ratio_at(iteration), device=x.device)  # a float would be compiled in
        loss = loss + tuning(model, x[first:], noise[first:], sigma[first:], ratio, config.huber)
    return loss
