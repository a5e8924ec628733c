"""The output folder of ``cmap certify``: settings and records; it resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from cmap_cli.benchmarking.certificates.documents import CERTIFY_SCHEMA, CertificateRecord
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import CERTIFY_FILE, RECORDS, claim_settings
from cmap_cli.runs.shard import WHOLE, Shard


class CertificateFolder:
    """certify.json (settings, provenance) and records.jsonl of a run; use it in a ``with`` statement.

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

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        *,
        overwrite: bool = False,
        shard: Shard = WHOLE,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(folder, RECORDS, shard)
        self.journal.open()
        try:
            if overwrite:
                forget_parts(self.journal)
            document = {"schema": CERTIFY_SCHEMA, "settings": settings, "provenance": provenance}
            claim_settings(folder / CERTIFY_FILE, document, overwrite=overwrite)
        except BaseException:
            self.journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.close()

    def resume(self) -> set[tuple[int, float]]:
        """The (image, sigma) of all records, in the file of any shard; a half line of this process is removed."""
        own = list(self.journal.read(CertificateRecord))
        self.journal.rewrite(own)
        return {(record.image, record.sigma) for path in self.journal.paths() for record in read_records(path)}

    def append(self, records: Iterable[CertificateRecord]) -> None:
        """Add records (OutOfSpaceError when the disk is full)."""
        self.journal.append(records)


def read_records(path: Path) -> Iterator[CertificateRecord]:
    """The records of a file."""
    return read_lines(path, CertificateRecord)
