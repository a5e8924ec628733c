"""What the property-based tests share: damaged bytes and JSON, and the claim that every error is one of ours.

The tests run briefly in the checks. ``python -m tests.hostile.fuzz`` runs the same strategies for as long as is asked.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cmap_cli.cli.stdout import printable
from cmap_cli.errors import CmapError

EXAMPLES = int(os.environ.get("CMAP_FUZZ_EXAMPLES", "60"))
"""Of each property; more than the default are drawn at random, and not the same in every run."""

fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="CMAP_FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

HOSTILE_VALUES = st.sampled_from(
    [
        None, True, 0, -1, 2**31, 2**63, 2**64, -(2**70), 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "x",
        "../outside", "/etc/passwd", "a\0b", "\x1b[31m", "[/x]", "\ud800", "9" * 5000, "é" * 300, [], {}, [[]], [None],
        {"": None}, [0] * 50, "clean", "cmap", "1/2",
    ]
).map(copy.deepcopy)  # fmt: skip
"""In place of a value of a document: other types, limits of numbers, paths that lead outside, odd text."""


@contextmanager
def only_our_errors(*, codes: Sequence[int] = (2, 3)) -> Iterator[None]:
    """Let errors of ours pass, each in one line and with one of these exit codes; any other exception is a failure."""
    try:
        yield
    except CmapError as error:
        for each in error.problems or [error]:
            assert each.message
            assert len(printable(each.message, lines=False).splitlines()) == 1, each.message
            assert each.exit_code in codes, (each.exit_code, each.message)


Damage = tuple[str, int, bytes]
"""What happens to some bytes, where, and with which others."""

DAMAGES: st.SearchStrategy[list[Damage]] = st.lists(
    st.tuples(
        st.sampled_from(("change", "cut", "insert", "end")),
        st.one_of(st.integers(0, 200), st.integers(0, 1 << 20)),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)
"""A few bytes changed, cut or put in; small whatever the file is, so that a failure can be shown."""


def damage(content: bytes, damages: list[Damage]) -> bytes:
    """The content after these changes."""
    changed = bytearray(content)
    for kind, somewhere, value in damages:
        place = somewhere % (len(changed) + 1)
        match kind:
            case "change":
                changed[place : place + len(value)] = value
            case "cut":
                del changed[place : place + 5 * len(value)]
            case "insert":
                changed[place:place] = value
            case _:
                del changed[place:]
    return bytes(changed)


def damaged(wholes: list[bytes]) -> st.SearchStrategy[bytes]:
    """A valid file with a few bytes changed, cut or put in."""
    return st.builds(damage, st.sampled_from(wholes), DAMAGES)


@st.composite
def spoiled(draw: st.DrawFn, documents: list[Any]) -> Any:
    """A document with one to three of its values, at any depth, replaced, removed or added to."""
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places(document) or [(None, None)]))
        if holder is None:
            return draw(HOSTILE_VALUES)
        match draw(st.sampled_from(("replace", "remove", "add"))):
            case "remove":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(st.sampled_from(("colour", "", "\0", "schema", "__class__")))] = draw(HOSTILE_VALUES)
            case _:
                holder[key] = draw(HOSTILE_VALUES)
    return document


def places(document: Any) -> list[tuple[Any, Any]]:
    """(Container, key or index) of every value inside a document."""
    found = []
    pending = [document]
    while pending:
        value = pending.pop()
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in entries:
            found.append((value, key))
            pending.append(inner)
    return found


def as_json(document: Any) -> bytes:
    """A document as JSON bytes; infinities and lone surrogates as Python writes them."""
    return json.dumps(document).encode()


def json_files(documents: list[Any]) -> st.SearchStrategy[bytes]:
    """The bytes of JSON files: a document with other values, or with damaged bytes, or anything."""
    return st.one_of(
        spoiled(documents).map(as_json),
        damaged([as_json(each) for each in documents]),
        st.binary(max_size=60),
        st.sampled_from([b"", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe{}", b"null", b"7", b'"x"']),
    )


def json_lines(documents: list[Any]) -> st.SearchStrategy[bytes]:
    """The bytes of files of JSON lines: some lines are good, some are spoiled, and the last may be cut short."""
    line = st.one_of(st.sampled_from(documents).map(as_json), spoiled(documents).map(as_json), damaged([b'{"a":1}']))
    whole = st.lists(line, max_size=5).map(lambda lines: b"".join(each + b"\n" for each in lines))
    return st.one_of(whole, st.builds(damage, whole, DAMAGES))
