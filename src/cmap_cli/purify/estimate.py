"""What a run will take: how many patches, how many at once, how long."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.types import Step, num_classes
from cmap_cli.data.inputs import Source, image_size
from cmap_cli.data.tiling import plan_fit
from cmap_cli.device import choose_batch_size, saved_bytes
from cmap_cli.errors import ImageError
from cmap_cli.purify.job import Job

SURVEYED = 500


def patch_batch_size(purifier: Purifier, device: torch.device, sharers: int = 1) -> int:
    """How many patches fit on the device at once, from what one patch's latents keep for the backward pass.

    Args:
        purifier: the method on a model.
        device: where.
        sharers: processes that have its memory to share.
    """
    x = torch.rand(1, *purifier.model.image_shape, device=device)
    one_step = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, steps=1))
    labels = some_labels(purifier, 1, device)
    kept = saved_bytes(lambda: one_step(x, image_generators(x, 0), labels=labels).samples)
    return choose_batch_size(sharers * kept, device)


def some_labels(purifier: Purifier, count: int, device: torch.device) -> Tensor | None:
    """Labels for a model that needs some."""
    return torch.zeros(count, dtype=torch.int64, device=device) if num_classes(purifier.model) else None


def common_batch_size(fitting: Sequence[int]) -> int:
    """What fits everywhere, rounded down to a power of two so that machines of about the same memory agree.

    Args:
        fitting: patches that fit on the device of each process of a job.
    """
    return 1 << max(1, min(fitting)).bit_length() - 1


def even_batches(patches: int, most: int) -> int:
    """The size of a batch that leaves as few of its places as possible empty.

    Args:
        patches: of all images, also of those that are done and of those of other shards: the size is the same for all.
        most: at once.
    """
    batches = -(-max(1, patches) // most)
    return -(-max(1, patches) // batches)


def seconds_per_patch(purifier: Purifier, device: torch.device, batch_size: int) -> float:
    """About how long one patch takes at this batch size: the second step of a batch stands for all of them.

    The first is not timed; it allocates and chooses kernels.
    """
    moments: list[float] = []

    def on_step(step: Step) -> None:
        float(step.total.sum())  # an accelerator computes beside us unless its result is asked for
        moments.append(time.perf_counter())

    x = torch.rand(batch_size, *purifier.model.image_shape, device=device)
    two_steps = dataclasses.replace(purifier, config=dataclasses.replace(purifier.config, steps=2))
    purified = two_steps(x, image_generators(x, 0), on_step, some_labels(purifier, batch_size, device))
    float(purified.samples.sum())
    first, second = moments
    after_steps = time.perf_counter() - second
    return ((second - first) * purifier.config.steps + after_steps) / batch_size


@dataclass(frozen=True, slots=True)
class Survey:
    """What the inputs will take, from the headers of up to 500 of them, extrapolated to all.

    Attributes:
        patches: of all images.
        tiled: images cut into tiles.
        tiled_patches: the tiles of these.
        resized: images that "auto" resizes because they need too many tiles.
        resized_patches: the tiles these would need.
    """

    patches: int
    tiled: int
    tiled_patches: int
    resized: int
    resized_patches: int


def survey(job: Job, sources: list[Source]) -> Survey:
    """Look at the sizes of the images; unreadable ones are passed over here."""
    if not sources:
        return Survey(0, 0, 0, 0, 0)
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
