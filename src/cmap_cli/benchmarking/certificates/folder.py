"""The output folder of ``cmap certify``: settings, records, and resuming."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cmap_cli.benchmarking.certificates.documents import CERTIFY_SCHEMA, CertificateRecord
from cmap_cli.runs.folder import RecordFolder
from cmap_cli.runs.journal import read_lines
from cmap_cli.runs.settings import CERTIFY_FILE


class CertificateFolder(RecordFolder):
    """certify.json and records.jsonl of a run."""

    settings_file = CERTIFY_FILE
    schema = CERTIFY_SCHEMA

    def resume(self) -> set[tuple[int, float]]:
        """The (image, sigma) of all records of all shards; removes an incomplete last line of this process's file."""
        own = list(self.journal.read(CertificateRecord))
        self.journal.rewrite(own)
        return {(record.image, record.sigma) for path in self.journal.paths() for record in read_records(path)}

    def append(self, records: Iterable[CertificateRecord]) -> None:
        """Append records (OutOfSpaceError if the disk is full)."""
        self.journal.append(records)


def read_records(path: Path) -> Iterator[CertificateRecord]:
    """The records of a file."""
    return read_lines(path, CertificateRecord)
