"""The table of foreign formats."""

from __future__ import annotations

import inspect

import pytest

from cmap_cli.models.formats import FORMATS, reader_of
from cmap_cli.models.weights.manifest import USED_AS_THEY_ARE, read_manifest


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_a_reader_of_a_path_and_an_artefact(format: str) -> None:
    assert list(inspect.signature(reader_of(format)).parameters) == ["path", "artefact"]


def test_the_manifest_uses_known_formats_and_no_format_is_unused() -> None:
    used = {source.format for artefact in read_manifest().values() for source in artefact.sources}
    assert used <= {*FORMATS, *USED_AS_THEY_ARE}
    assert set(FORMATS) - used <= {"hf-repository", "safetensors", "score-sde"}  # of names like hf:org/repo, timm:NAME
