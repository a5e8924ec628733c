"""Training of the U-Net: denoising pre-training, then consistency tuning (Geng et al. 2024), resumable."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from cmap_cli.core.consistency import SIGMA_MAX, SIGMA_MIN, to_model_range
from cmap_cli.errors import UsageError
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.training.losses import consistency_loss, denoising_loss, trajectory_loss
from cmap_cli.training.optimisation import LOG_EVERY, TrainingRun, denoised_psnr, start_run
from cmap_cli.training.recipe import TrainingConfig

CHANGEABLE = ("images", "denoising", "decay", "checkpoint_every")
"""Fields that may differ in a continued run: its length, and when tuning and the fall of the learning rate begin."""
HELD_OUT_EVERY = 100
HELD_OUT_LEVELS = (0.1, 0.2, 0.3, 0.5, 1.0)
HELD_OUT_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The value that ``on_progress`` receives after every iteration; ``loss`` is a tensor on the device."""

    iteration: int
    iterations: int
    loss: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of a run.

    Attributes:
        denoising: :func:`denoising_loss`, compiled or not.
        consistency: :func:`consistency_loss`, compiled or not.
        teacher: denoiser for :func:`trajectory_loss`, which is then used instead of ``consistency``; None without.
    """

    denoising: Callable[..., Tensor]
    consistency: Callable[..., Tensor]
    teacher: UNetConsistency | None

    @classmethod
    def of(cls, teacher: UNetConsistency | None, *, compiled: bool) -> Losses:
        """The losses with this teacher."""
        if compiled:
            return cls(torch.compile(denoising_loss), torch.compile(consistency_loss), teacher)
        return cls(denoising_loss, consistency_loss, teacher)


def held_out(images: Tensor) -> tuple[Tensor, Tensor]:
    """Training images, and every 100th image to measure with, uint8; with fewer than 100, all images for both."""
    if len(images) < HELD_OUT_EVERY:
        return images, images
    measured = torch.zeros(len(images), dtype=torch.bool)
    measured[::HELD_OUT_EVERY] = True
    return images[~measured], images[measured]


def training_batch(images: Tensor, config: TrainingConfig, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
    """X in [-1, 1], noise and levels of an iteration; a function of seed and iteration alone, so a resume is exact.

    All are drawn on the device of the images; another kind of device draws other numbers.
    """
    place = images.device
    generator = Generator(place).manual_seed(config.seed * 1_000_003 + iteration)
    index = torch.randint(len(images), (config.batch_size,), generator=generator, device=place)
    x = to_model_range(images[index].float() / 255)
    flip = torch.rand(config.batch_size, generator=generator, device=place) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(-1), x)
    noise = torch.randn(x.shape, generator=generator, device=place)
    levels = torch.randn(config.batch_size, generator=generator, device=place)
    uniform, spread = torch.rand((2, config.batch_size), generator=generator, device=place)
    first = config.denoised_at(iteration)
    low, high = math.log(SIGMA_MIN), math.log(SIGMA_MAX)
    denoised = torch.where(
        spread < config.uniform,
        low + (high - low) * uniform,
        levels * config.denoising_std + config.denoising_mean,
    )
    tuned = (levels * config.consistency_std + config.consistency_mean).clamp_min(math.log(config.tuned_from))
    return x, noise, torch.cat([denoised[:first], tuned[first:]]).exp()


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
    initial: UNetConsistency | None = None,
) -> tuple[UNetConsistency, dict[str, dict[float, float]], float]:
    """Train. The same call, or one with more images, continues from the checkpoint in ``folder``.

    Args:
        images: uint8, (N, C, H, W); every 100th is held out to measure with. They are moved to the device, where
            batches are drawn.
        base: the Gaussian that the network is preconditioned with; not trained.
        config: the recipe.
        folder: folder of ``checkpoint.safetensors`` and ``training.jsonl``.
        on_progress: called after every iteration.
        device: device to train on.
        dtype: data type of autocast.
        compiled: whether torch.compile fuses the kernels.
        initial: weights to begin with if there is no checkpoint, and the denoiser of trajectories; its base must be
            ``base``.

    Returns:
        The average of the weights with the best mean PSNR on the held-out images, on the device; the PSNR in dB of
        each average by level; the seconds of training of all runs.

    Raises:
        SettingsMismatchError: the checkpoint is of another recipe.
        UsageError: trajectories without an initial model.
    """
    if config.tuning == "trajectory" and initial is None:
        raise UsageError("tuning on trajectories needs a denoiser to begin with", "--init MODEL")
    torch.manual_seed(config.seed)
    model = UNetConsistency(base, config.widths, config.blocks, config.preconditioning).to(device)
    initial = initial.to(device).requires_grad_(False) if initial else None
    teacher = initial if config.tuning == "trajectory" else None
    run = start_run(config, model, folder, CHANGEABLE, initial, model_facts(base, teacher, images))
    losses = Losses.of(teacher, compiled=compiled)
    trained, measured = held_out(images)
    resumed = run.resume()
    seconds = resumed[1]
    for iteration, loss, seconds in steps(run, config, trained.to(device), dtype, resumed, losses):
        on_progress(TrainingStep(iteration, config.iterations, loss))
        if iteration % LOG_EVERY == 0:
            run.log(iteration=iteration, seconds=round(seconds, 1), loss=float(loss), lr=config.lr_at(iteration - 1))
        if iteration % config.checkpoint_every == 0 or iteration == config.iterations:
            run.save(iteration, seconds)
            run.log(iteration=iteration, seconds=round(seconds, 1), held_out=psnr_of(run, measured, device, dtype))
    found = psnr_of(run, measured, device, dtype)
    best = max(found, key=lambda name: sum(found[name].values()))
    return run.averages[best], found, seconds


def model_facts(base: GaussianConsistency, teacher: UNetConsistency | None, images: Tensor) -> dict[str, object]:
    """Values that a checkpoint must share besides the recipe: the images, the Gaussian's directions, the teacher.

    The network is preconditioned with the Gaussian of its images, so it must not be continued with other images.
    """
    facts: dict[str, object] = {"image_shape": base.image_shape, "directions": len(base.directions)}
    facts["images_sha256"] = hashlib.sha256(images.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]
    if teacher is not None:
        values = [value.half().cpu().numpy().tobytes() for value in teacher.backbone.state_dict().values()]
        facts["teacher"] = hashlib.sha256(b"".join(values)).hexdigest()
    return facts


def steps(
    run: TrainingRun[UNetConsistency],
    config: TrainingConfig,
    images: Tensor,
    dtype: torch.dtype,
    resumed: tuple[int, float],
    losses: Losses,
) -> Iterator[tuple[int, Tensor, float]]:
    """Run the remaining iterations; ``resumed`` is the number of finished iterations and their seconds.

    Yields:
        The number of iterations done, the loss, and the seconds of training so far.
    """
    start, before = resumed
    began = time.monotonic() - before
    for iteration in range(start, config.iterations):
        batch = training_batch(images, config, iteration)
        with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
            loss = batch_loss(run.model, batch, config, iteration, losses)
        run.update(iteration, loss)
        yield iteration + 1, loss.detach(), time.monotonic() - began


def psnr_of(
    run: TrainingRun[UNetConsistency], measured: Tensor, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[float, float]]:
    """PSNR in dB of each average's denoiser by level, on held-out uint8 images."""
    x = to_model_range(measured.float() / 255)
    return {
        name: denoised_psnr(average, x, HELD_OUT_LEVELS, HELD_OUT_SEED, device, dtype)
        for name, average in run.averages.items()
    }


def batch_loss(
    model: UNetConsistency,
    batch: tuple[Tensor, Tensor, Tensor],
    config: TrainingConfig,
    iteration: int,
    losses: Losses,
) -> Tensor:
    """The loss of an iteration: denoising of the first images of its batch, tuning of f on the others."""
    x, noise, sigma = batch[0], batch[1], batch[2].clamp(model.sigma_min, model.sigma_max)
    first = config.denoised_at(iteration)
    loss = torch.zeros((), device=x.device)
    if first:
        loss = loss + losses.denoising(model, x[:first], noise[:first], sigma[:first], config.weight)
    if first == len(x):
        return loss
    if losses.teacher is None:
        ratio = torch.tensor(config.ratio_at(iteration), device=x.device)  # a float would be compiled in
        return loss + losses.consistency(model, x[first:], noise[first:], sigma[first:], ratio, config.huber)
    shown = slice(first, first + max(1, (len(x) - first) // config.trajectory_steps))
    levels = ode_levels(config, iteration).to(x.device)
    return loss + trajectory_loss(
        model, losses.teacher, x[shown], noise[shown], levels, config.tuned_from, config.huber
    )


def ode_levels(config: TrainingConfig, iteration: int) -> Tensor:
    """Rising levels of an iteration's trajectories from ``trajectory_start`` to t_max, (trajectory_steps + 1,).

    They are equally spaced in ln t; all but the first and the last are moved at random by up to half a step.
    """
    generator = Generator().manual_seed(config.seed * 1_000_003 + iteration)
    steps = config.trajectory_steps
    places = torch.arange(steps + 1.0)
    places[1:-1] += torch.rand(steps - 1, generator=generator) - 0.5
    low, high = math.log(config.trajectory_start), math.log(SIGMA_MAX)
    return (low + (high - low) / steps * places).exp()
