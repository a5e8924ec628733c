"""The processes that torchrun started for one job, and what they tell each other: that all have come this far.

Images are shared out by their names (:mod:`cmap_cli.runs.shard`), so nothing but a few words is exchanged, at the
beginning and at the end. They go through gloo, on GPUs too, where nccl is at hand for tensors on the device: a process
may have to wait for hours until the slowest has finished, and a collective of nccl that waits that long keeps the GPU
busy and is ended by its watchdog.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cmap_cli.errors import CmapError

MEETING = timedelta(minutes=10)
PATIENCE = timedelta(days=30)
"""How long a process waits for the others; those that die are noticed at once, by their closed connections."""


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a job.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: this process's, of those that were asked for.
        sharers: how many processes of this machine use that device.
    """

    rank: int
    size: int
    device: str
    sharers: int

    def exchange(self, value: Any) -> list[Any]:
        """What each process has to say, by rank; returns when all have spoken.

        Raises:
            CmapError: one of them is gone.
        """
        said: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(said, value)
        except RuntimeError as error:
            raise CmapError(
                "another process of this job has stopped", "its own message says why; the same command goes on"
            ) from error
        return said

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """What rank 0 does before the others do it."""
        if self.rank != 0:
            self.exchange(None)
        yield
        if self.rank == 0:
            self.exchange(None)

    def leave(self) -> None:
        """The end of the job for this process."""
        dist.destroy_process_group()


def join(device: str) -> Team:
    """Meet the other processes, as torchrun's environment says.

    Args:
        device: as the user asked for it. Of "auto" and "cuda" each process of a machine gets a GPU of its own, as long
            as there are enough.

    Raises:
        CmapError: they cannot be reached.
    """
    local, neighbours = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    sharers = neighbours
    backend = "gloo"
    if device in ("auto", "cuda") and torch.cuda.is_available():
        count = torch.cuda.device_count()
        device, sharers = f"cuda:{local % count}", -(-neighbours // count)
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.set_device(torch.device(device))
        backend = "cpu:gloo,cuda:nccl" if dist.is_nccl_available() else backend
    try:
        store, rank, size = next(rendezvous("env://", timeout=MEETING))
        # torchrun can keep one store over its restarts; without a name of its own a process would meet the dead
        store = dist.PrefixStore(f"cmap/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CmapError(f"the other processes of this job cannot be reached: {reason}") from error
    return Team(dist.get_rank(), dist.get_world_size(), device, sharers)
