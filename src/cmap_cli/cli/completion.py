"""Names that a shell completes. Does not import torch, because completion must be fast."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import get_args

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.choices import Access, Norm
from cmap_cli.data.table import DATASETS
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import CmapError

BREAK = "@"
"""Bash takes it for a word of its own: ``pgd@bp`` reaches a completion as pgd, @ and bp."""


@contextmanager
def joining_words() -> Iterator[None]:
    """When bash asks for a completion, join words around @, and answer with what bash replaces: from the @ on."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    if os.environ.get("_CMAP_COMPLETE") != "complete_bash" or BREAK not in words:
        yield
        return
    joined, current = join_words(words, int(os.environ["COMP_CWORD"]))
    os.environ |= {"COMP_WORDS": "\n".join(joined), "COMP_CWORD": str(current)}
    typed = joined[current].rpartition(BREAK)[0]
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            yield
    finally:
        sys.stdout.write("".join(line.removeprefix(typed) for line in answers.getvalue().splitlines(keepends=True)))


def join_words(words: list[str], current: int) -> tuple[list[str], int]:
    """The words with those joined that an @ divides, and the place of the word that was at ``current``."""
    joined: list[str] = []
    place = 0
    for number, word in enumerate(words):
        if joined and BREAK in (word, words[number - 1]):
            joined[-1] += word
        else:
            joined.append(word)
        if number == current:
            place = len(joined) - 1
    return joined, place


def models() -> list[str]:
    """Models of the manifest."""
    return artefacts("consistency-model")


def classifiers() -> list[str]:
    """Classifiers of the manifest."""
    return artefacts("classifier")


def weights() -> list[str]:
    """Everything in the manifest."""
    return artefacts()


def artefacts(kind: str = "") -> list[str]:
    """Names in the manifest, of one kind or all; none if it cannot be read; the command then reports that."""
    from cmap_cli.models.weights.manifest import read_manifest

    try:
        manifest = read_manifest()
    except CmapError:
        return []
    return [name for name, artefact in manifest.items() if kind in ("", artefact.kind)]


def attacks(incomplete: str) -> list[str]:
    """Attacks; after an @ the accesses that the attack can be given."""
    name, at, _ = incomplete.partition("@")
    if not at:
        return list(ATTACKS)
    return [f"{name}@{access}" for access in ATTACKS[name].accesses] if name in ATTACKS else []


def accesses() -> list[str]:
    """Accesses: what an attacker can know."""
    return list(get_args(Access))


def datasets() -> list[str]:
    """Named data sets; the shell completes files and folders."""
    return [each.spelling.removesuffix("FOLDER") for each in DATASETS.values()]


def defenses() -> list[str]:
    """Defences."""
    return list(DEFENSES)


def norms() -> list[str]:
    """Norms."""
    return list(get_args(Norm))
