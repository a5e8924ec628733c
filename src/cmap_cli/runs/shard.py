"""The shard of a job that a process works on: shard i of n."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from cmap_cli.errors import UsageError

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets for its processes."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard ``index`` of ``count``, from 1.

    Every unit of work belongs to exactly one of the ``count`` shards, on every machine and in every run.
    """

    index: int
    count: int

    def __str__(self) -> str:
        """The text that --shard takes: "2/4"."""
        return f"{self.index}/{self.count}"

    def owns(self, key: str) -> bool:
        """Whether the unit of this name belongs to it: by SHA-256, as Python's hash differs in every process."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return self.takes(int.from_bytes(digest[:8], "big"))

    def takes(self, number: int) -> bool:
        """Whether the unit of this number belongs to it, where units are numbered the same in every process."""
        return number % self.count == self.index - 1


WHOLE = Shard(1, 1)
"""The job of a process that is alone."""


def parse_shard(text: str) -> Shard:
    """The shard that "2/4" means, the second of four (UsageError for other texts)."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text} is not a shard", "--shard 1/4 to --shard 4/4 are the shards of four")
    return Shard(int(match[1]), int(match[2]))


def launched_shard() -> Shard | None:
    """The shard of a process that torchrun started, from its environment; None for any other process.

    Raises:
        UsageError: RANK and WORLD_SIZE are set, but are not those of a process of a group.
    """
    if any(name not in os.environ for name in LAUNCHER):
        return None
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise UsageError(f"RANK {rank!r} and WORLD_SIZE {size!r} of the environment are not torchrun's", "unset RANK")
    return Shard(int(rank) + 1, int(size))


def restarted() -> bool:
    """Whether torchrun starts this process again, after a worker was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def resolve_shard(text: str | None, overwrite: bool) -> Shard:
    """The shard of this process by --shard, or by torchrun's environment.

    Raises:
        UsageError: the text is not a shard, or does not go with torchrun or --overwrite.
    """
    launched = launched_shard()
    if text is None:
        return launched or WHOLE
    if launched is not None:
        raise UsageError("--shard does not go with torchrun, which assigns the shards itself", "leave out --shard")
    shard = parse_shard(text)
    if overwrite and shard != WHOLE:
        raise UsageError(
            "--overwrite would remove the results of the other shards, so it does not go with --shard",
            "empty --out before the first shard starts",
        )
    return shard
