"""The share of a job that this process does: all of it, ``--shard i/n``, or its part of what torchrun started."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmap_cli.errors import UsageError
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard, parse_shard, restarted

if TYPE_CHECKING:
    from cmap_cli.runs.team import Team

GRAVITY = (0, 3, 1, 2, 130)
"""Exit codes, the worst last."""


@dataclass(frozen=True)
class Share:
    """Which part of a job this process does, and with whom.

    Attributes:
        shard: its part.
        team: the processes of torchrun; None without it.
        device: what it computes on, as --device says it.
    """

    shard: Shard
    team: Team | None
    device: str

    @property
    def leads(self) -> bool:
        """Whether this process talks, and shows the results."""
        return self.team is None or self.team.rank == 0

    @property
    def sharers(self) -> int:
        """How many processes compute on its device."""
        return 1 if self.team is None else self.team.sharers

    @property
    def partial(self) -> bool:
        """Whether the rest of the job is somewhere else, out of sight."""
        return self.team is None and self.shard != WHOLE

    def opening(self) -> AbstractContextManager[None]:
        """What rank 0 does before the others do it."""
        return nullcontext() if self.team is None else self.team.leader_first()

    def forgets(self, overwrite: bool) -> bool:
        """Whether it is for this process to forget what is in the output folder, and the job only begins."""
        return overwrite and self.leads and (self.team is None or not restarted())

    def meet(self, value: Any) -> list[Any]:
        """What all processes of the job have to say, when all have spoken."""
        return [value] if self.team is None else self.team.exchange(value)

    def leave(self, code: int) -> int:
        """The end: the worst exit code of all processes."""
        codes = self.meet(code)
        if self.team is not None:
            self.team.leave()
        return worst(codes)


def worst(codes: list[int]) -> int:
    """The gravest of several exit codes."""
    return max(codes, key=lambda code: GRAVITY.index(code) if code in GRAVITY else len(GRAVITY))


def parse_share(text: str | None, overwrite: bool) -> Shard:
    """The shard that the options and torchrun's environment give this process; torch is not needed for it.

    Raises:
        UsageError: they do not go together.
    """
    launched = launched_shard()
    if text is None:
        return launched or WHOLE
    if launched is not None:
        raise UsageError("--shard does not go with torchrun, which shares the job out itself", "leave out --shard")
    shard = parse_shard(text)
    if overwrite and shard != WHOLE:
        raise UsageError(
            "--overwrite would forget what the other shards have done, so it does not go with --shard",
            "empty --out before the first shard starts",
        )
    return shard


def join_share(shard: Shard, device: str) -> Share:
    """Meet the other processes, if torchrun started any (CmapError if they cannot be reached)."""
    if launched_shard() is None:
        return Share(shard, None, device)
    from cmap_cli.runs.team import join

    team = join(device)
    return Share(shard, team, team.device)
