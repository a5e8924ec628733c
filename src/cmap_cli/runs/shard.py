"""Which share of a job a process does: shard i of n."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass

from cmap_cli.errors import UsageError

LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its processes; without all of them there is no torchrun."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Share ``index`` of ``count``, from 1.

    Every unit of work belongs to exactly one of the ``count`` shards, on every machine and in every run.
    """

    index: int
    count: int

    def __str__(self) -> str:
        """As one asks for it: "2/4"."""
        return f"{self.index}/{self.count}"

    def owns(self, key: str) -> bool:
        """Whether the unit of this name is its: by SHA-256, because Python's own hash differs in every process."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return self.takes(int.from_bytes(digest[:8], "big"))

    def takes(self, number: int) -> bool:
        """Whether the unit of this number is its, where units are numbered the same in every process."""
        return number % self.count == self.index - 1


WHOLE = Shard(1, 1)
"""The job of a process that is alone."""


def parse_shard(text: str) -> Shard:
    """The share that "2/4" means, the second of four (UsageError for what is none)."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text} is no share of a job", "--shard 1/4 to --shard 4/4 are the shares of four")
    return Shard(int(match[1]), int(match[2]))


def launched_shard() -> Shard | None:
    """The share of a process that torchrun started, from its environment; None for any other process."""
    if any(name not in os.environ for name in LAUNCHER):
        return None
    return Shard(int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"]))


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
