"""An output folder with settings and records, in which a run can be resumed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

from platformdirs import user_cache_path

from cmap_cli.files import make_folder
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import RECORDS, claim_settings
from cmap_cli.runs.shard import WHOLE, Shard

LONGEST_NAME = 80
"""Characters of the readable part of a default folder's name."""


def default_folder(kind: str, words: Iterable[str], settings: Mapping[str, Any]) -> Path:
    """The folder of the user's cache that a run without --out gets; the same settings always get the same one.

    Args:
        kind: of the run; the name of the parent folder.
        words: the name begins with them, so that a person recognises the run. Of a path only the last part is used.
        settings: what determines the results; the name ends with a digest of them.
    """
    names = (re.sub(r"[^A-Za-z0-9._]+", "-", Path(word).name).strip("-.") for word in words)
    readable = "-".join(name for name in names if name)[:LONGEST_NAME]
    digest = sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return user_cache_path("cmap", appauthor=False) / kind / "-".join(filter(None, (readable, digest)))


class RecordFolder:
    """Settings, provenance and records.jsonl of a run; use it in a ``with`` statement.

    Args:
        folder: the output folder.
        settings: what determines the records; a run continues only with equal ones.
        provenance: circumstances of the run; those of the first start are kept.
        overwrite: discard the results that are there, of all shards.
        shard: whose records are written.

    Raises:
        SettingsMismatchError: the folder holds records of other settings.
        CmapError: another process is writing them.
    """

    settings_file: ClassVar[str]
    schema: ClassVar[str]

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
        shard: Shard = WHOLE,
    ) -> None:
        self.folder = folder
        self.shard = shard
        make_folder(folder)
        self.journal = Journal(folder, RECORDS, shard)
        self.journal.open()
        try:
            if overwrite:
                self.discard()
            document = {"schema": self.schema, "settings": settings, "provenance": provenance}
            claim_settings(folder / self.settings_file, document, overwrite=overwrite)
        except BaseException:
            self.journal.close()
            raise

    def discard(self) -> None:
        """Remove the results that are there, of all shards."""
        forget_parts(self.journal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()
