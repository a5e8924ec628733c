"""Typed JSON documents: bytes <-> frozen msgspec structs, with one sentence for whatever is wrong with the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cmap_cli.errors import CmapError

T = TypeVar("T")
UNDECODABLE = (msgspec.DecodeError, ValueError, RecursionError, OverflowError)
"""Exceptions for bytes that cannot be decoded; UnicodeError is a ValueError."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON document with a version: subclasses give ``schema`` its default, such as "cmap.run/1".

    Attributes:
        schema: name and version of the format.
    """

    schema: str


class Seconds(msgspec.Struct, frozen=True, kw_only=True):
    """A duration that is estimated as a range, in seconds."""

    low: float
    high: float


def encode(value: Any, *, indent: int | None = 2) -> str:
    """JSON text of a struct, dataclass, dict or list; NaN and infinity become null.

    Args:
        value: what to encode.
        indent: spaces per level; None for a single line.
    """
    try:
        encoded = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a file name that is not UTF-8 is kept as Python escapes it
        return json.dumps(msgspec.to_builtins(value), indent=indent)
    return (encoded if indent is None else msgspec.json.format(encoded, indent=indent)).decode()


def decode_json(content: bytes | str, kind: type[T], where: Path | str, error: type[CmapError] = CmapError) -> T:
    """Decode JSON bytes into a type.

    Args:
        content: the bytes.
        kind: of the document.
        where: file name for the message.
        error: class of the error to raise.

    Raises:
        CmapError: the bytes are not UTF-8, not JSON, too deeply nested, or not of this type.
    """
    try:
        return parse_json(content, msgspec.json.Decoder(kind))
    except UNDECODABLE as problem:
        raise error(f"{where} is damaged or of another program: {problem}") from problem


def parse_json(content: bytes | str, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode JSON; file names that are not UTF-8 are lone surrogates, which msgspec's decoder refuses, json's not.

    Raises:
        Exception: one of UNDECODABLE.
    """
    try:
        return decoder.decode(content)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if (rb"\ud" if isinstance(content, bytes) else r"\ud") not in content:  # type: ignore[operator]
            raise
        converted: T = msgspec.convert(json.loads(content), decoder.type)  # its type is unknown since msgspec 0.23
        return converted


def read_document(path: Path, kind: type[T], error: type[CmapError] = CmapError, hint: str = "") -> T:
    """Read and decode a JSON file; errors as :func:`decode_json`, and for a file that cannot be read."""
    try:
        return decode_json(path.read_bytes(), kind, path, error)
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}", hint) from problem
    except CmapError as problem:
        raise type(problem)(problem.message, problem.hint or hint) from problem
