"""What an attack is, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from cmap_cli.choices import Access


@dataclass(frozen=True, slots=True)
class GradientDiagnostics:
    """Diagnostics of the gradients that an attack used.

    Attributes:
        zero_share: share of entries that were exactly 0, over all gradients of the attack, in [0, 1].
        non_finite: how many entries were NaN or infinite; they were replaced by 0.
        cosine: between two draws of the gradient at the clean images, each of one call, mean over the images that have
            one; 1 for a model without randomness, near 0 where gradients are noise, 0 if all are 0; None if they were
            not compared.
    """

    zero_share: float
    non_finite: int
    cosine: float | None


@dataclass(frozen=True, slots=True)
class AttackResult:
    """Adversarial images and what the attack reports about them.

    Attributes:
        x_adv: (B, C, H, W) in [0, 1], within the threat model.
        reported_success: where the attack saw a wrong prediction, (B,) bool. For a randomised model this has to be
            evaluated again with fresh draws.
        diagnostics: of its gradients, None if it uses none or does not report them.
        flags: warnings of the attack, short phrases.
    """

    x_adv: Tensor
    reported_success: Tensor
    diagnostics: GradientDiagnostics | None = None
    flags: tuple[str, ...] = ()


@runtime_checkable
class ComparesDraws(Protocol):
    """An attack that also compares two draws of the gradient at the clean images, which takes two more gradients."""

    def without_comparison(self) -> Attack:
        """The same attack without that."""
        ...


class Attack(Protocol):
    """A search for images near x that a model gets wrong.

    Attributes:
        name: for reports, "PGD-100".
        access: what the attacker knows of the defence; a property of the pair of attack and model, so whoever pairs
            them says it.
    """

    @property
    def name(self) -> str: ...

    @property
    def access(self) -> Access: ...

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack all images at once; the caller divides large sets. No image's result depends on the others.

        Args:
            model: images in [0, 1] (B, C, H, W) -> scores (B, classes), in evaluation mode; a randomised one owns a
                generator for each image and starts them again in ``reseed(seeds)``.
            x: images in [0, 1].
            y: their labels, (B,) int64.
            seed: of all randomness; the result depends on no other, and the global generators stay as they were.
        """
        ...
