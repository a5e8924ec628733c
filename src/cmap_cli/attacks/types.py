"""The interface of attacks and the type of their results."""

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
        non_finite: number of entries that were NaN or infinite; they were replaced by 0.
        cosine: cosine between two draws of the gradient at the clean images (one call of the model each), mean over the
            images; 1 for a model without randomness, near 0 if gradients are noise, 0 if all are 0; None if draws were
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
        reported_success: whether the attack found a wrong prediction, (B,) bool. For a randomised model this has to be
            evaluated again with fresh draws.
        diagnostics: diagnostics of the gradients; None if the attack uses none or does not report them.
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
        """The same attack without the comparison."""
        ...


class Attack(Protocol):
    """A search for images near x that a model gets wrong.

    Attributes:
        name: name in reports, such as "PGD-100".
        access: what the attacker knows of the defence. It depends on the model that the attack is run on, so the caller
            sets it.
    """

    @property
    def name(self) -> str: ...

    @property
    def access(self) -> Access: ...

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack a batch of images; the caller divides large sets. The result of an image depends on no other image.

        Args:
            model: images in [0, 1] (B, C, H, W) -> scores (B, classes), in evaluation mode. A randomised model has a
                generator for each image and restarts the generators in ``reseed(seeds)``.
            x: images in [0, 1], (B, C, H, W).
            y: labels, (B,) int64.
            seed: seed of all random numbers of the attack; the global generators are left unchanged.
        """
        ...
