"""Make attacks depend only on their seed, and leave the global random generators unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor, nn

from cmap_cli.core.purifier import image_generators


def can_leave(model: nn.Module) -> bool:
    """Whether images can leave a batch: the model has no randomness, or separate random numbers for each image."""
    return not hasattr(model, "reseed") or hasattr(model, "attend")


@contextmanager
def attending(model: nn.Module, rows: Tensor) -> Iterator[None]:
    """Within the context a randomised model gets only these rows of the attacked images, afterwards all of them."""
    attend: Callable[[list[int] | None], None] | None = getattr(model, "attend", None)
    if attend is None:
        yield
        return
    attend(rows.tolist())
    try:
        yield
    finally:
        attend(None)


@contextmanager
def seeded(model: nn.Module, x: Tensor, seed: int) -> Iterator[list[Generator]]:
    """Seed the model's own generators and the global ones of torch, NumPy and Python; restore the global ones.

    The seeds of an image follow from its values and ``seed``, so they do not depend on the images beside it.

    Args:
        model: its ``reseed(seeds)`` is called if it has one, with a seed for each image.
        x: the images that are attacked, (B, C, H, W).
        seed: any integer from 0, of the whole attack.

    Yields:
        A CPU generator for each image, for the attack itself.
    """
    seeds = [generator.initial_seed() for generator in image_generators(x, seed)]
    python, numpy = random.getstate(), np.random.get_state()
    has_cuda_state = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if has_cuda_state else ()):
        try:
            torch.manual_seed(seeds[0])
            np.random.seed(seeds[0] % (1 << 32))
            random.seed(seeds[0])
            reseed = getattr(model, "reseed", None)
            if reseed is not None:
                reseed(seeds)
            yield [Generator().manual_seed(each) for each in seeds]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
