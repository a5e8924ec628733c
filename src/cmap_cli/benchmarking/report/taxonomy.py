"""The attacks of a report in the terms of NIST AI 100-2 and MITRE ATLAS, which other tools and auditors use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from cmap_cli.attacks.table import ATTACKS
from cmap_cli.benchmarking.report.values import AccessTaxonomy, DefenseResult, Taxonomy
from cmap_cli.choices import Access

SOURCES = (
    "NIST AI 100-2 E2025, Adversarial Machine Learning, sections 2.1 and 2.2, https://doi.org/10.6028/NIST.AI.100-2e2025",
    "MITRE ATLAS 5.6.0, https://atlas.mitre.org",
)
GOAL = "NISTAML.02 Integrity Violation"
STAGE = "deployment"
RESTORATION = "AML.M0010 Input Restoration"
EVASION = "NISTAML.022 Evasion"
BLACK_BOX_EVASION = "NISTAML.025 Black-box Evasion"
WHITE_BOX_OPTIMIZATION = "AML.T0043.000 Craft Adversarial Data: White-Box Optimization"
BLACK_BOX_OPTIMIZATION = "AML.T0043.001 Craft Adversarial Data: Black-Box Optimization"
BLACK_BOX_TRANSFER = "AML.T0043.002 Craft Adversarial Data: Black-Box Transfer"
CONTROL = "testing data control"
QUERIES = "query access"


@dataclass(frozen=True, slots=True)
class TaxonomyEntry:
    """The terms of the taxonomies for an access; the target is the classifier with its defence."""

    attack_class: str
    knowledge: str
    capabilities: tuple[str, ...]
    technique: str


PLACES: dict[Access, TaxonomyEntry] = {
    # the classifier is known, the defence is not
    "transfer": TaxonomyEntry(EVASION, "gray-box", (CONTROL,), BLACK_BOX_TRANSFER),
    "surrogate": TaxonomyEntry(EVASION, "gray-box", (CONTROL,), BLACK_BOX_TRANSFER),
    # all is known, however well it can be differentiated
    "bpda": TaxonomyEntry(EVASION, "white-box", (CONTROL,), WHITE_BOX_OPTIMIZATION),
    "white-box": TaxonomyEntry(EVASION, "white-box", (CONTROL,), WHITE_BOX_OPTIMIZATION),
    "adaptive": TaxonomyEntry(EVASION, "white-box", (CONTROL,), WHITE_BOX_OPTIMIZATION),
    "black-box": TaxonomyEntry(BLACK_BOX_EVASION, "black-box", (CONTROL, QUERIES), BLACK_BOX_OPTIMIZATION),
}


def find_taxonomy(defenses: Sequence[DefenseResult]) -> Taxonomy | None:
    """The terms for the accesses of all attacks except controls; None without attacks."""
    rows = [row for one in defenses for threat in one.threats for row in threat.attacks]
    if not rows:
        return None
    defended = any(one.defense != "none" for one in defenses)
    tried = {row.access for row in rows}
    places = {access: place for access, place in PLACES.items() if access in tried}
    if not defended:  # the bare classifier is the target itself
        looked_inside = any(row.attack not in ATTACKS or ATTACKS[row.attack].needs_gradients for row in rows)
        places["transfer"] = PLACES["white-box" if looked_inside else "black-box"]
    return Taxonomy(
        goal=GOAL,
        stage=STAGE,
        mitigation=RESTORATION if defended else None,
        access=tuple(AccessTaxonomy(access, *dataclasses.astuple(place)) for access, place in places.items()),
        sources=SOURCES,
    )
