"""An output folder of records with its settings; it resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from cmap_cli.files import make_folder
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import RECORDS, claim_settings
from cmap_cli.runs.shard import WHOLE, Shard


class RecordFolder:
    """Settings, provenance and records.jsonl of a run; use it in a ``with`` statement.

    Args:
        folder: the output folder.
        settings: what determines the records; a run continues only with equal ones.
        provenance: circumstances of the run, kept from the first start.
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
