"""What a run will take: how many patches, how many at once, how long."""

from __future__ import annotations

import dataclasses
import time

import torch

from cmap_cli.core.memory import some_labels
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.types import Step
from cmap_cli.data.inputs import Source, image_size
from cmap_cli.data.tiling import plan_fit
from cmap_cli.errors import ImageError
from cmap_cli.purify.events import Survey
from cmap_cli.purify.job import Job

SURVEYED = 500


def seconds_per_patch(purifier: Purifier, device: torch.device, batch_size: int) -> float:
    """About how long one patch takes at this batch size.

    Of an optimisation the second of two steps stands for all of them, of denoising the second of two draws. The first
    is not timed; it allocates and chooses kernels.
    """
    moments: list[float] = []

    def on_step(step: Step) -> None:
        if step.total is not None:
            float(step.total.sum())  # an accelerator computes beside us unless its result is asked for
        moments.append(time.perf_counter())

    x = torch.rand(batch_size, *purifier.model.image_shape, device=device)
    config = purifier.config
    denoises = config.method == "denoise"
    twice = dataclasses.replace(config, num_latents=2) if denoises else dataclasses.replace(config, steps=2)
    timed = dataclasses.replace(purifier, config=twice)
    purified = timed(x, image_generators(x, 0), on_step, some_labels(purifier, batch_size, device))
    float(purified.samples.sum())
    first, second = moments
    after = time.perf_counter() - second
    return (config.num_latents * after if denoises else (second - first) * config.steps + after) / batch_size


def survey(job: Job, sources: list[Source]) -> Survey:
    """Look at the sizes of the images; unreadable ones are passed over here."""
    if not sources:
        return Survey()
    sample = sources[:: -(-len(sources) // SURVEYED)]
    counts = {"patches": 0, "tiled": 0, "tiled_patches": 0, "resized": 0, "resized_patches": 0}
    for source in sample:
        try:
            width, height = image_size(source)
        except ImageError:
            continue
        plan = job.plan(height, width)
        counts["patches"] += plan.tiles
        if plan.mode == "tile":
            counts["tiled"] += 1
            counts["tiled_patches"] += plan.tiles
        elif plan.mode == "resize" and job.fit == "auto":
            counts["resized"] += 1
            counts["resized_patches"] += plan_fit(height, width, job.patch_size, "tile").tiles
    return Survey(**{name: round(count * len(sources) / len(sample)) for name, count in counts.items()})
