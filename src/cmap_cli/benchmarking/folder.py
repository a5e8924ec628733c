"""The output folder of ``cmap benchmark`` and ``cmap attack``: settings, records, attacked images, and resuming."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cmap_cli.benchmarking.campaign import Campaign
from cmap_cli.benchmarking.documents import BENCHMARK_SCHEMA, BenchmarkRecord
from cmap_cli.files import write_with
from cmap_cli.runs.folder import RecordFolder
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.progress import forget_parts
from cmap_cli.runs.settings import MANIFEST, RECORDS, SETTINGS_FILE, claim_settings, refuse_other_settings

ADVERSARIAL = "adversarial"


class BenchmarkFolder(RecordFolder):
    """benchmark.json (settings, provenance) and records.jsonl of a run.

    The records of a task are appended together after its adversarial image is written, so after a kill there is no
    record without its image. Incomplete tasks are removed and done again. Several processes can work on one folder,
    each with its own shard and records; no process repeats the finished tasks of another one.
    """

    settings_file = SETTINGS_FILE
    schema = BENCHMARK_SCHEMA

    def discard(self) -> None:
        """Remove the results of all shards."""
        forget_parts(self.journal, MANIFEST)
        shutil.rmtree(self.folder / ADVERSARIAL, ignore_errors=True)

    def resume(self, campaign: Campaign) -> set[tuple[str, int]]:
        """The keys of finished tasks, see :func:`finished_tasks`; removes incomplete tasks from this process's file."""
        complete = finished_tasks(self.journal.paths(), campaign)
        if self.journal.path.exists():  # also when nothing is incomplete: a half line may be at its end
            own = finished_tasks([self.journal.path], campaign)
            self.journal.rewrite(record for record in self.records() if (record.item, record.image) in own)
        return complete

    def records(self) -> Iterator[BenchmarkRecord]:
        """The records of this process in the order in which they were made."""
        return self.journal.read(BenchmarkRecord)

    def all_records(self) -> Iterator[BenchmarkRecord]:
        """The records of all processes."""
        for path in self.journal.paths():
            yield from read_lines(path, BenchmarkRecord)

    def append(self, records: Sequence[BenchmarkRecord]) -> None:
        """Append the records of tasks (OutOfSpaceError if the disk is full)."""
        self.journal.append(records)

    def whole_images(self, campaign: Campaign) -> int:
        """The number of first images for which all tasks are finished."""
        finished, items = finished_tasks(self.journal.paths(), campaign), list(campaign.items())
        images = range(len(campaign.dataset))
        wanted = [[(item.name, image) for item in items if image in campaign.images(item)] for image in images]
        return next((image for image, keys in enumerate(wanted) if not finished.issuperset(keys)), len(images))

    def keep_first(self, images: int, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
        """Keep only the first images: the run becomes one that was started with these images alone.

        Args:
            images: number of images that are kept.
            settings: settings of the run with these images.
            provenance: provenance of this run.
        """
        dropped = [record.file for record in self.records() if record.image >= images and record.file]
        self.journal.rewrite(record for record in self.records() if record.image < images)
        for name in dropped:
            (self.folder / name).unlink(missing_ok=True)
        document = {"schema": self.schema, "settings": settings, "provenance": provenance}
        claim_settings(self.folder / self.settings_file, document, overwrite=True)

    def write_images(self, relative: Path, tensors: dict[str, Tensor]) -> None:
        """Write a task's images losslessly (OutOfSpaceError when the disk is full)."""
        stored = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        write_with(self.folder / relative, lambda temporary: save_file(stored, temporary))


def find_finished_tasks(folder: Path, settings: Mapping[str, Any], campaign: Campaign) -> set[tuple[str, int]]:
    """The keys of the finished tasks of a folder, without changing it (SettingsMismatchError for other settings)."""
    path = folder / SETTINGS_FILE
    if not path.exists():
        return set()
    refuse_other_settings(path, settings)
    return finished_tasks(Journal(folder, RECORDS).paths(), campaign)


def finished_tasks(paths: Iterable[Path], campaign: Campaign) -> set[tuple[str, int]]:
    """The (item, image) of every task all of whose records are in these files."""
    expected = {task.key: len(campaign.evaluated(task.item)) for task in campaign.tasks()}
    complete = set()
    for path in paths:
        found = Counter((record.item, record.image) for record in read_lines(path, BenchmarkRecord))
        complete |= {key for key, count in found.items() if expected.get(key) == count}
    return complete
