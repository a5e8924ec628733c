"""Attacks on anything that maps images in [0, 1] to scores."""

from cmap_cli.attacks.autoattack import AutoAttack
from cmap_cli.attacks.disruption import ConsistencyDisruption
from cmap_cli.attacks.noise import RandomNoise
from cmap_cli.attacks.pgd import PGD, fgsm, paper_pgd
from cmap_cli.attacks.types import Attack, AttackResult, GradientDiagnostics

__all__ = [
    "PGD",
    "Attack",
    "AttackResult",
    "AutoAttack",
    "ConsistencyDisruption",
    "GradientDiagnostics",
    "RandomNoise",
    "fgsm",
    "paper_pgd",
]
