"""Threat models: norm and radius of the ball around an image that an attacker may use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmap_cli.choices import Norm
from cmap_cli.core.purifier import standard_normal
from cmap_cli.errors import UsageError

NORMS: dict[str, Norm] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """Images in [0, 1] within ``eps`` of the original in the given norm.

    Attributes:
        norm: "Linf", "L2" or "L1", over all pixels and channels of an image.
        eps: the radius, in units of [0, 1].
        spelled: the radius as the user wrote it, "8/255".
    """

    norm: Norm
    eps: float
    spelled: str

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """‖x_adv − x‖ of images (B, C, H, W) -> (B,)."""
        order = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}[self.norm]
        distance: Tensor = torch.linalg.vector_norm((x_adv - x).flatten(1), order, dim=1)
        return distance

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Move images into the ball around x and into [0, 1]; for L2 and L1 along the line to x, then clipped.

        Clipping to [0, 1] moves towards x, which is in [0, 1], so the result stays in the ball.
        """
        if self.norm == "Linf":
            return (x + (x_adv - x).clamp(-self.eps, self.eps)).clamp(0, 1)
        distance = self.distance(x_adv, x).clamp(min=1e-12)
        factor = (self.eps / distance).clamp(max=1)[:, None, None, None]
        return (x + factor * (x_adv - x)).clamp(0, 1)

    def random_start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A random image of each ball: uniform for Linf; otherwise a random direction with a uniform share of eps.

        Args:
            x: images in [0, 1], (B, C, H, W).
            generators: one CPU generator per image.
        """
        if self.norm == "Linf":
            noise = torch.stack([2 * torch.rand(x.shape[1:], generator=each) - 1 for each in generators])
            return self.project(x + self.eps * noise.to(x), x)
        noise = standard_normal(x.shape[1:], generators).to(x)
        share = torch.cat([torch.rand(1, generator=each) for each in generators]).to(x)[:, None, None, None]
        size = self.distance(noise, torch.zeros_like(noise)).clamp(min=1e-12)[:, None, None, None]
        return self.project(x + self.eps * share * noise / size, x)


def parse_threat(norm: str, eps: str) -> ThreatModel:
    """Parse a threat model.

    Args:
        norm: "Linf", "L2" or "L1", in upper or lower case.
        eps: a number or a fraction, "0.5" or "8/255", in units of [0, 1].

    Raises:
        UsageError: the norm is unknown, or eps is not a finite number above 0 (for Linf: at most 1).
    """
    spelled = eps.strip()
    number, slash, divisor = spelled.partition("/")
    try:
        value = float(number) / (float(divisor) if slash else 1)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--eps {eps} is not a number", "write 8/255 or 0.5") from error
    if norm.lower() not in NORMS:
        raise UsageError(f"--norm {norm} is none of {', '.join(NORMS.values())}")
    if not 0 < value < math.inf:
        raise UsageError(f"--eps {eps} is not a finite number above 0", "write 8/255 or 0.5")
    if NORMS[norm.lower()] == "Linf" and value > 1:
        hint = f"write {spelled}/255" if not divisor and value <= 255 else "write 8/255"
        raise UsageError(f"--eps {eps} is above 1, the whole range of a pixel", f"pixels are in [0, 1]: {hint}")
    return ThreatModel(NORMS[norm.lower()], value, spelled)
