"""Training of the photograph model: denoising of random crops, resumable, with two averages of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.training.loop import TrainingStep
from cmap_cli.training.losses import denoising_loss
from cmap_cli.training.optimisation import LOG_EVERY, TrainingRun, denoised_psnr, start_run
from cmap_cli.training.photo_recipe import PhotoConfig
from cmap_cli.training.photos import PhotoSet, draw_crops

CHANGEABLE = ("iterations", "decay", "checkpoint_every", "stages")
"""Fields that may differ when a run is continued: its length, and the size of later crops."""
HELD_OUT_SIDE = 192
HELD_OUT_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.5)
HELD_OUT_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class PhotoBatch:
    """Input of one iteration.

    Attributes:
        x: clean crops in [-1, 1], (N, 3, side, side).
        noise: standard normal, the same shape.
        sigma: t, (N,).
    """

    x: Tensor
    noise: Tensor
    sigma: Tensor


def photo_batch(photos: PhotoSet, config: PhotoConfig, model: PhotoConsistency, iteration: int) -> PhotoBatch:
    """Crops, noise and levels of an iteration, on the CPU; functions of seed and iteration: resuming is exact."""
    stage = config.stage_at(iteration)
    x = draw_crops(photos, stage.batch_size, stage.side, (config.seed, iteration))
    generator = Generator().manual_seed(config.seed * 1_000_003 + iteration)
    noise = torch.randn(x.shape, generator=generator)
    normal = torch.randn(len(x), generator=generator) * config.level_std + config.level_mean
    low, high = math.log(model.sigma_min), math.log(model.sigma_max)
    uniform = low + (high - low) * torch.rand(len(x), generator=generator)
    spread = torch.rand(len(x), generator=generator) < config.uniform
    return PhotoBatch(x, noise, torch.where(spread, uniform, normal).clamp(low, high).exp())


def held_out_psnr(
    model: PhotoConsistency, photos: PhotoSet, device: torch.device, dtype: torch.dtype
) -> dict[float, float]:
    """Mean PSNR in dB, of images in [0, 1], of the denoiser at a few levels t on one crop of each photograph."""
    x = draw_crops(photos, len(photos), HELD_OUT_SIDE, (HELD_OUT_SEED,))
    return denoised_psnr(model, x, HELD_OUT_LEVELS, HELD_OUT_SEED, device, dtype)


def start_photo_run(
    config: PhotoConfig, folder: Path, device: torch.device, initial: PhotoConsistency | None = None
) -> TrainingRun[PhotoConsistency]:
    """A run before its first iteration, its weights drawn from the seed or those of ``initial``."""
    torch.manual_seed(config.seed)
    model = PhotoConsistency(config.widths, config.blocks, config.middle).to(device)
    return start_run(config, model, folder, CHANGEABLE, initial)


def train_photo(
    photos: PhotoSet,
    config: PhotoConfig,
    folder: Path,
    on_progress: Callable[[TrainingStep], None],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    compiled: bool = False,
    initial: PhotoConsistency | None = None,
) -> tuple[PhotoConsistency, dict[str, dict[float, float]], float]:
    """Train. The same call, or one with more iterations, continues from the checkpoint in ``folder``.

    Args:
        photos: the photographs; every 40th is held out to measure with.
        config: the recipe.
        folder: folder of ``checkpoint.safetensors`` and ``training.jsonl``.
        on_progress: called after every iteration.
        device: device to train on.
        dtype: data type of autocast.
        compiled: whether torch.compile fuses the kernels.
        initial: weights to begin with if there is no checkpoint.

    Returns:
        The average of the weights with the best mean PSNR on the held-out photographs; the PSNR in dB of each average
        by level; the seconds of training of all runs.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
    """
    run = start_photo_run(config, folder, device, initial)
    trained, held_out = photos.split()
    resumed = run.resume()
    seconds = resumed[1]
    for iteration, loss, seconds in iterations(run, config, trained, device, dtype, resumed, compiled=compiled):
        on_progress(TrainingStep(iteration, config.iterations, loss))
        if iteration % LOG_EVERY == 0:
            run.log(iteration=iteration, seconds=round(seconds, 1), loss=float(loss), lr=config.lr_at(iteration - 1))
        if iteration % config.checkpoint_every == 0 or iteration == config.iterations:
            run.save(iteration, seconds)
            psnr = {name: held_out_psnr(each, held_out, device, dtype) for name, each in run.averages.items()}
            run.log(iteration=iteration, seconds=round(seconds, 1), held_out=psnr)
    measured = {name: held_out_psnr(each, held_out, device, dtype) for name, each in run.averages.items()}
    best = max(measured, key=lambda name: sum(measured[name].values()))
    return run.averages[best], measured, seconds


def iterations(
    run: TrainingRun[PhotoConsistency],
    config: PhotoConfig,
    photos: PhotoSet,
    device: torch.device,
    dtype: torch.dtype,
    resumed: tuple[int, float],
    *,
    compiled: bool,
) -> Iterator[tuple[int, Tensor, float]]:
    """Run the remaining iterations; ``resumed`` is the number of finished iterations and their seconds.

    Yields:
        The number of iterations done, the loss, and the seconds of training so far.
    """
    loss_of = torch.compile(denoising_loss) if compiled else denoising_loss
    start, before = resumed
    began = time.monotonic() - before
    for iteration in range(start, config.iterations):
        batch = photo_batch(photos, config, run.model, iteration)
        x, noise = (part.to(device, memory_format=torch.channels_last) for part in (batch.x, batch.noise))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(run.model, x, noise, batch.sigma.to(device), config.weight)
        run.update(iteration, loss)
        yield iteration + 1, loss.detach(), time.monotonic() - began
