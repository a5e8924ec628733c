"""Documents come back as they were, and bad bytes are one sentence."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.documents import Document, decode_json, encode, read_document


class Example(Document, frozen=True, kw_only=True):
    schema: str = "cmap.example/1"
    source: str
    count: int = 0


@pytest.mark.parametrize("name", ["a.png", "\udcff.png", "\u00fc \U0001f600.png", 'a"b\\.png'])
@pytest.mark.parametrize("indent", [None, 2])
def test_documents_come_back_whatever_the_file_name(name: str, indent: int | None) -> None:
    example = Example(source=name, count=3)
    assert decode_json(encode(example, indent=indent), Example, "x") == example
    assert decode_json(encode(example, indent=indent).encode(), Example, "x") == example


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b'{"schema":1}',
        b'{"source":7}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"source":"\\ud8"}',
    ],
)
def test_invalid_bytes_give_an_error_of_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"x\.json is damaged") as caught:
        read_document(path, Example, UsageError, "--overwrite")
    assert caught.value.hint == "--overwrite"
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CmapError, match=r"none\.json cannot be read: No such file"):
        read_document(tmp_path / "none.json", Example)


def test_numbers_that_json_lacks_become_null() -> None:
    assert msgspec.json.decode(encode({"x": float("nan")})) == {"x": None}
