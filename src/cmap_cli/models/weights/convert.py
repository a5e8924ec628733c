"""From a downloaded file to what the cache holds: tensors and a description, checked."""

from __future__ import annotations

from pathlib import Path

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import FORMATS, reader_of
from cmap_cli.models.formats.layout import Converted
from cmap_cli.models.weights.documents import Artefact, DownloadSource


def convert_download(artefact: Artefact, source: DownloadSource, path: Path) -> Converted:
    """Read a downloaded file, or the folder of a repository, and check its structure.

    Raises:
        WeightsError: it is not of the source's format, its tensors are not those of the artefact's architecture, a
            value is not finite, or the layout or the decoded contents have another fingerprint than the manifest's.
    """
    if source.format not in FORMATS:
        raise WeightsError(f"the file of {artefact.name} is used as it is, not converted")
    converted = reader_of(source.format)(path, artefact)
    if source.layout_sha256 and converted.layout_sha256 != source.layout_sha256:
        raise WeightsError(f"{path} has other tensors than {artefact.name}: layout {converted.layout_sha256}")
    broken = [k for k, v in converted.tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise WeightsError(f"{path} has values that are not finite, in {broken[0]}")
    return converted
