"""What is checked before torch is loaded: inputs, output folder, labels, shard and settings, all problems at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmap_cli.choices import DEFAULT_CLASSIFIER
from cmap_cli.data.inputs import Discovery, Source, discover
from cmap_cli.data.labels import read_labels
from cmap_cli.data.outputs import FORMATS, check_collisions, check_output_folder
from cmap_cli.errors import UsageError, collecting, raise_all
from cmap_cli.models.weights.manifest import unknown_names
from cmap_cli.purify.events import Failed, Listed
from cmap_cli.purify.settings import PurifySettings
from cmap_cli.runs.shard import WHOLE, Shard, launched_shard, resolve_shard


@dataclass(frozen=True, slots=True)
class Request:
    """A purification whose inputs are listed and whose options are valid.

    Attributes:
        found: all inputs.
        labels: true labels as their file gives them, by resolved path.
        shard: the part of the job that this process does.
    """

    found: Discovery
    labels: dict[Path, str]
    shard: Shard

    @property
    def sources(self) -> list[Source]:
        """The images of this process."""
        return [source for source in self.found.sources if self.shard.owns(source.relative.as_posix())]

    @property
    def failures(self) -> list[Failed]:
        """Inputs of this process that could not even be listed."""
        return [Failed(failure.path, failure.error) for failure in self.found.failures if self.shard.owns(failure.path)]

    def listed(self) -> Listed:
        """The numbers, for ``on_message``."""
        shard = None if self.shard == WHOLE else str(self.shard)
        return Listed(len(self.found.sources), len(self.sources), shard, self.found.skipped)


def check_request(
    inputs: Sequence[str],
    out: Path,
    settings: PurifySettings,
    *,
    labels: Path | None = None,
    shard: str | None = None,
    overwrite: bool = False,
    compare: bool = False,
    stdin: Iterable[str] | None = None,
) -> Request:
    """List the inputs and check all that can be checked before torch is loaded.

    Args:
        inputs: files, folders, patterns, "-".
        out: the output folder.
        settings: of the purification.
        labels: CSV file of true labels.
        shard: as --shard takes it.
        overwrite: whether earlier results are forgotten.
        compare: whether a comparison is wanted.
        stdin: lines of standard input, for "-".

    Raises:
        UsageError: something is wrong; one error for everything.
    """
    problems = settings.problems() + unknown_names(settings.model, settings.classifier)
    found, true_labels, own = Discovery(), dict[Path, str](), WHOLE
    if labels is not None and settings.classifier is None:
        problems.append(UsageError("--labels needs a classifier to compare with", f"--classifier {DEFAULT_CLASSIFIER}"))
    with collecting(problems):
        own = resolve_shard(shard, overwrite)
    if compare and own != WHOLE and launched_shard() is None:
        problems.append(
            UsageError("--compare does not go with --shard", "the same command without --shard afterwards writes it")
        )
    with collecting(problems):
        found = discover(inputs, stdin)
        if settings.format in FORMATS:
            check_collisions(found.sources, FORMATS[settings.format], out)
    with collecting(problems):
        check_output_folder(found.folders, out)
    with collecting(problems):
        true_labels = read_labels(labels).names() if labels else {}
    raise_all(problems)
    return Request(found, true_labels, own)
