"""Names that a shell completes. Free of torch: an answer must come before the user types on."""

from __future__ import annotations

from typing import get_args

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.choices import Access, Norm
from cmap_cli.data.table import DATASETS
from cmap_cli.defenses.table import DEFENSES
from cmap_cli.errors import CmapError


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
    """Names in the manifest, of one kind or all; none if it cannot be read, which the command itself will say."""
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
    """What an attacker can know."""
    return list(get_args(Access))


def datasets() -> list[str]:
    """Data sets that have a name; a shell completes files and folders itself."""
    return [each.spelling.removesuffix("FOLDER") for each in DATASETS.values()]


def defenses() -> list[str]:
    """Defences."""
    return list(DEFENSES)


def norms() -> list[str]:
    """Norms."""
    return list(get_args(Norm))
