"""The estimated cost of a run: number of patches, how many at once, time."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch

from cmap_cli.core.memory import common_batch_size, even_batches, patch_batch_size, some_labels
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.types import Step, TakesAnySize
from cmap_cli.data.inputs import Source, image_size
from cmap_cli.errors import ImageError
from cmap_cli.purify.events import Survey
from cmap_cli.purify.job import Job, Jobs

SURVEYED = 500
TIMED_SIDES = {"denoise": 224, "optimise": 64}
"""Pixels of a side of the picture that is timed, of models for any size; time grows as the number of pixels."""


def seconds_per_patch(purifier: Purifier, device: torch.device, size: tuple[int, int], batch_size: int) -> float:
    """About how long one patch of that (height, width) takes at this batch size.

    Of an optimisation the second of two steps stands for all of them, of denoising the second of two draws. The first
    is not timed; it allocates and chooses kernels.
    """
    moments: list[float] = []

    def on_step(step: Step) -> None:
        if step.total is not None:
            float(step.total.sum())  # an accelerator computes beside us unless its result is asked for
        moments.append(time.perf_counter())

    config, timed = purifier.config, size
    if isinstance(purifier.model, TakesAnySize):
        side = TIMED_SIDES[config.method]
        timed = min(side, size[0]), min(side, size[1])
    x = torch.rand(batch_size, purifier.model.image_shape[0], *timed, device=device)
    denoises = config.method == "denoise"
    twice = dataclasses.replace(config, num_latents=2) if denoises else dataclasses.replace(config, steps=2)
    measured = dataclasses.replace(purifier, config=twice)
    purified = measured(x, image_generators(x, 0), on_step, some_labels(purifier, batch_size, device))
    float(purified.samples.sum())
    first, second = moments
    after = time.perf_counter() - second
    seconds = config.num_latents * after if denoises else (second - first) * config.steps + after
    return seconds / batch_size * (size[0] * size[1]) / (timed[0] * timed[1])


def expected_seconds(jobs: Jobs, looked: Survey) -> float:
    """About how long all patches of a survey take: for each model the most frequent size is timed."""
    total = 0.0
    for job in jobs.each:
        counts = {size: count for (model, size), count in looked.sizes.items() if model == job.model and count}
        if not counts:
            continue
        timed = max(counts, key=lambda size: counts[size])
        seconds = seconds_per_patch(job.purifier, job.device, timed, job.batch_size(timed))
        total += sum(seconds * count * h * w / (timed[0] * timed[1]) for (h, w), count in counts.items())
    return total


def survey(jobs: Jobs, sources: list[Source]) -> Survey:
    """Look at the sizes of the images; unreadable ones are passed over here."""
    if not sources:
        return Survey()
    sample = sources[:: -(-len(sources) // SURVEYED)]
    counts: Counter[str] = Counter()
    sizes: Counter[tuple[str, tuple[int, int]]] = Counter()
    for source in sample:
        try:
            width, height = image_size(source)
            job, plan = jobs.plan(height, width)
        except ImageError:
            continue
        counts["patches"] += plan.tiles
        sizes[job.model, plan.size] += plan.tiles
        if plan.mode == "tile":
            counts["tiled"] += 1
            counts["tiled_patches"] += plan.tiles

    def extrapolated(count: int) -> int:
        return round(count * len(sources) / len(sample))

    return Survey(
        **{name: extrapolated(count) for name, count in counts.items()},
        sizes={key: extrapolated(count) for key, count in sizes.items()},
    )


def sized_jobs(jobs: Jobs, looked: Survey, most: Callable[[Job, tuple[int, int]], int]) -> Jobs:
    """The jobs with the sizes of their batches.

    Args:
        jobs: as they were prepared.
        looked: at all images, of those that are done and of other shards too: sizes of batches are the same for all.
        most: patches of a job and a (height, width) that can be purified at once.
    """
    batches: dict[str, dict[tuple[int, int], int]] = {job.model: {} for job in jobs.each}
    by_name = {job.model: job for job in jobs.each}
    for (model, size), count in looked.sizes.items():
        if count > 1:
            batches[model][size] = even_batches(count, most(by_name[model], size))
    return Jobs(tuple(dataclasses.replace(job, batches=batches[job.model]) for job in jobs.each))


def with_batches(jobs: Jobs, sizes: Iterable[tuple[int, int]], batch_size: int | None) -> Jobs:
    """The jobs with the sizes of their batches, for images of these (height, width) in memory.

    Args:
        jobs: as they were prepared.
        sizes: of all images.
        batch_size: patches at once; None for what fits into memory.
    """
    counts: Counter[tuple[str, tuple[int, int]]] = Counter()
    for size in sizes:
        job, plan = jobs.plan(*size)
        counts[job.model, plan.size] += plan.tiles
    return sized_jobs(jobs, Survey(sizes=counts), lambda job, size: batch_size or fitting(job, size))


def fitting(job: Job, size: tuple[int, int]) -> int:
    """How many patches of that (height, width) fit on the device of a process that is alone."""
    return common_batch_size([patch_batch_size(job.purifier, job.device, size=size)])
