"""How long a training will take, as a range, from a short measurement of its parts on this device."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmap_cli.defenses.smoothing import NoisyClassifier
from cmap_cli.device import choose_dtype
from cmap_cli.models.networks.gaussian import GaussianConsistency
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.networks.unet import UNetConsistency
from cmap_cli.runs.forecast import Span, from_measurement
from cmap_cli.training.adapt_loop import LabelledImages, start_adaptation
from cmap_cli.training.adapt_parts import AdaptationParts
from cmap_cli.training.adapt_recipe import AdaptationConfig
from cmap_cli.training.loop import Losses, batch_loss, training_batch
from cmap_cli.training.losses import denoising_loss
from cmap_cli.training.optimisation import TrainingRun, start_run
from cmap_cli.training.photo_recipe import PhotoConfig
from cmap_cli.training.plan import TrainPlan
from cmap_cli.training.recipe import TrainingConfig

MEASURED_IMAGES = 16
MEASURED_SIZE = 512
DIRECTIONS = 64


def training_time(plan: TrainPlan) -> Span:
    """The time of a whole training, without reading images or checkpoints: finished iterations are not subtracted.

    The lower end is for an idle machine, the upper end for one that is as busy as during the measurement.
    """
    device = plan.chosen.device
    dtype = choose_dtype(plan.settings.precision, device)
    with torch.random.fork_rng(devices=[]):
        if isinstance(plan.recipe, PhotoConfig):
            return from_measurement(photo_seconds(plan.recipe, device, dtype))
        if plan.parts is not None and isinstance(plan.recipe, AdaptationConfig):
            return from_measurement(adaptation_seconds(plan.parts, plan.recipe, dtype))
        assert not isinstance(plan.recipe, AdaptationConfig)
        seconds = decomposition_seconds(plan.image_shape)
        if plan.recipe is not None:
            seconds += unet_seconds(plan.recipe, plan.image_shape, device, dtype)
        return from_measurement(seconds)


def decomposition_seconds(shape: tuple[int, int, int]) -> Span:
    """Seconds of the eigendecomposition of a Gaussian's covariance, whose cost grows with the cube of its size."""
    size = shape[0] * shape[1] * shape[2]
    small = min(size, MEASURED_SIZE)
    matrix = torch.randn(small, small, dtype=torch.float64)
    return timed(lambda: torch.linalg.eigh(matrix @ matrix.T)) * (size / small) ** 3


def unet_seconds(recipe: TrainingConfig, shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Span:
    """Seconds of all iterations, from the first one (before the tuning) and the last one with a few images."""
    small = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, MEASURED_IMAGES))
    size = shape[0] * shape[1] * shape[2]
    count = min(DIRECTIONS, size)
    base = GaussianConsistency(torch.zeros(shape), torch.eye(size)[:count], torch.ones(count))
    model = UNetConsistency(base, recipe.widths, recipe.blocks, recipe.preconditioning).to(device)
    run = start_run(recipe, model, Path(), ())
    losses = Losses.of(model if recipe.tuning == "trajectory" else None, compiled=False)
    images = torch.randint(0, 256, (MEASURED_IMAGES, *shape), dtype=torch.uint8).to(device)

    def loss_at(iteration: int) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return batch_loss(model, training_batch(images, small, iteration), small, iteration, losses)

    batch = recipe.batch_size / small.batch_size
    tuned = recipe.iterations - recipe.denoising_iterations
    first = iteration_seconds(run, loss_at, 0, batch) * recipe.denoising_iterations
    return first + iteration_seconds(run, loss_at, recipe.iterations - 1, batch) * tuned


def photo_seconds(recipe: PhotoConfig, device: torch.device, dtype: torch.dtype) -> Span:
    """Seconds of all iterations, from a few crops: the cost of a pass grows with the number of pixels."""
    side = recipe.stages[0].side
    model = PhotoConsistency(recipe.widths, recipe.blocks, recipe.middle).to(device)
    run = start_run(recipe, model, Path(), ())
    x = torch.randn(MEASURED_IMAGES, 3, side, side).to(device, memory_format=torch.channels_last)
    sigma = torch.full((MEASURED_IMAGES,), 0.2, device=device)

    def loss_at(_: int) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return denoising_loss(model, x, torch.randn_like(x), sigma, recipe.weight)

    ends = [*(stage.start for stage in recipe.stages[1:]), recipe.iterations]
    pixels = sum(
        max(0, min(end, recipe.iterations) - stage.start) * stage.batch_size * stage.side**2
        for stage, end in zip(recipe.stages, ends, strict=True)
    )
    batch = pixels / (MEASURED_IMAGES * side**2 * recipe.iterations)
    return iteration_seconds(run, loss_at, 0, batch) * recipe.iterations


def adaptation_seconds(parts: AdaptationParts, recipe: AdaptationConfig, dtype: torch.dtype) -> Span:
    """Seconds of all iterations, from a few images and a copy of the classifier."""
    small = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, MEASURED_IMAGES))
    classifier = copy.deepcopy(parts.classifier.module)
    run = start_adaptation(small, NoisyClassifier(parts.model.model, classifier, dtype=dtype), Path(), {})
    shape = parts.dataset.image_shape
    assert shape is not None
    x = torch.randint(0, 256, (MEASURED_IMAGES, *shape), dtype=torch.uint8)
    images = LabelledImages(x, torch.zeros(MEASURED_IMAGES, dtype=torch.int64))
    one = timed(lambda: run.update(0, run.loss(images, 0)))
    return one * (recipe.batch_size / small.batch_size * recipe.iterations)


def iteration_seconds(run: TrainingRun[Any], loss_at: Callable[[int], Tensor], iteration: int, batch: float) -> Span:
    """Seconds of an iteration: forward and backward pass, which grow with the batch, and the update of the weights.

    Args:
        run: the run whose weights are updated.
        loss_at: the loss of an iteration on the few measured images.
        iteration: number of the iteration.
        batch: size of a whole batch divided by the number of measured images; values below 1 count as 1.
    """
    passes = timed(lambda: loss_at(iteration).backward())  # type: ignore[no-untyped-call]
    whole = timed(lambda: run.update(iteration, loss_at(iteration)))
    return whole + passes * max(0.0, batch - 1)


def timed(work: Callable[[], object]) -> Span:
    """Seconds of the second of two calls: on an idle machine, and measured. The first call is a warm-up.

    On an idle machine each thread of this process would have its own core: the time is the processor time divided by
    the number of threads.
    """
    work()
    synchronise()
    began, worked = time.perf_counter(), time.process_time()
    work()
    synchronise()
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    alone = seconds if torch.cuda.is_available() else processor / torch.get_num_threads()
    return Span(min(alone, seconds), seconds)


def synchronise() -> None:
    """Wait for an accelerator."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
