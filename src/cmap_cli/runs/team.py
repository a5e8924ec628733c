"""The processes of a job and the shard of each: a process alone, one ``--shard i/n``, or those that torchrun started.

Images are assigned by their names (:mod:`cmap_cli.runs.shard`), so processes exchange only a few values, at the
beginning and at the end. They use gloo, on GPUs too, where nccl is available for tensors on the device: a process may
have to wait for hours until the slowest has finished, and a collective of nccl that waits that long keeps the GPU busy
and is ended by its watchdog.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cmap_cli.errors import CmapError
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard, restarted

MEETING = timedelta(minutes=10)
PATIENCE = timedelta(days=30)
"""How long a process waits for the others; those that die are noticed at once, by their closed connections."""

SEVERITY = (0, 3, 1, 2, 129, 130, 143)
"""Exit codes, the worst last."""


@dataclass(frozen=True, slots=True)
class Team:
    """The processes of a job; a process that is alone is a team of one.

    Attributes:
        shard: the part of the job that this process does.
        device: what this process computes on, as --device names it.
        rank: of this process, from 0.
        size: how many processes there are.
        sharers: how many processes of this machine use the same device.
    """

    shard: Shard = WHOLE
    device: str = "auto"
    rank: int = 0
    size: int = 1
    sharers: int = 1

    @property
    def launched(self) -> bool:
        """Whether torchrun started the processes."""
        return self.size > 1 or launched_shard() is not None

    @property
    def leads(self) -> bool:
        """Whether this process reports, and shows the results."""
        return self.rank == 0

    @property
    def partial(self) -> bool:
        """Whether other processes, unknown to this one, do the rest of the job."""
        return not self.launched and self.shard != WHOLE

    def exchange(self, value: Any) -> list[Any]:
        """The values of all processes by rank; returns when each has given its own.

        Raises:
            CmapError: a process has ended.
        """
        if not self.launched:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise CmapError(
                "another process of this job has stopped", "its own message says why; the same command continues"
            ) from error
        return values

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Rank 0 runs the block before the others do."""
        if not self.leads:
            self.exchange(None)
        yield
        if self.leads:
            self.exchange(None)

    def forgets(self, overwrite: bool) -> bool:
        """Whether this process has to remove earlier results: the leader, at the first start, with --overwrite."""
        return overwrite and self.leads and not (self.launched and restarted())

    def leave(self, code: int) -> int:
        """Leave the job; returns the worst exit code of all processes."""
        codes = self.exchange(code)
        if self.launched:
            import torch.distributed as dist

            dist.destroy_process_group()
        return worst_exit_code(codes)


def worst_exit_code(codes: Sequence[int]) -> int:
    """The most severe of several exit codes."""
    return max(codes, key=lambda code: SEVERITY.index(code) if code in SEVERITY else len(SEVERITY))


def join_team(shard: Shard, device: str) -> Team:
    """The team of this process; meets the other processes if torchrun started any.

    Args:
        shard: of this process.
        device: as the user asked for it. With "auto" and "cuda" each process of a machine gets a GPU of its own, if
            there are enough.

    Raises:
        CmapError: the other processes cannot be reached.
    """
    if launched_shard() is None:
        return Team(shard, device)
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

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
    return Team(shard, device, dist.get_rank(), dist.get_world_size(), sharers)
