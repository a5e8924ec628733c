"""Attacks that depend on their seed alone, and leave every global generator as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def seeded(model: nn.Module, seed: int) -> Iterator[torch.Generator]:
    """Seed the model's own generator and the global ones of torch, NumPy and Python; restore the global ones.

    Args:
        model: its ``reseed(seed)`` is called if it has one.
        seed: any integer from 0.

    Yields:
        A CPU generator of that seed for the attack itself.
    """
    python, numpy = random.getstate(), np.random.get_state()
    has_cuda_state = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if has_cuda_state else ()):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % (1 << 32))
            random.seed(seed)
            reseed = getattr(model, "reseed", None)
            if reseed is not None:
                reseed(seed)
            yield torch.Generator().manual_seed(seed)
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
