"""Computes a certificate from the classes of noisy samples: a fixed number, or only as many as are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cmap_cli.benchmarking.certificates.bounds import (
    certified_radius,
    clopper_pearson_lower,
    exceeds,
    falls_below,
    needed_probability,
    reachable_radius,
    sequence_lower,
)
from cmap_cli.choices import Procedure

Decision = Literal["certified", "refuted", "undecided", "out of reach"]
LOOK = 16
"""Samples between two tests of the sequential procedure; decisions do not depend on the batches of samples."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The procedure: number of samples per image, and the radii to decide.

    Attributes:
        procedure: "cohen": ``samples`` samples, then one Clopper-Pearson bound. "sequential": as many samples as are
            needed to decide all ``radii``, at most ``samples``.
        selection: number of samples that choose the class and are not used for the bound.
        samples: number of samples for the bound, see ``procedure``.
        alpha: probability that the certificate of one image is wrong.
        radii: ℓ2 radii, for images in [0, 1].
    """

    procedure: Procedure
    selection: int
    samples: int
    alpha: float
    radii: tuple[float, ...]


@dataclass(slots=True)
class Tally:
    """The votes of the samples of one image with one noise level so far.

    Attributes:
        plan: the procedure.
        sigma: standard deviation of the noise, for images in [0, 1].
        taken: number of samples so far, including those of the selection.
        selected: most frequent class of the selection, in a tie the lower one; None before the selection is complete.
        successes: number of later samples with this class; ``trials`` is the number of all later samples.
        lower: lower bound of the probability of this class; the highest of all tests so far.
        decisions: decision for each radius.
    """

    plan: Plan
    sigma: float
    taken: int = 0
    selected: int | None = None
    successes: int = 0
    trials: int = 0
    lower: float = 0.0
    votes: Counter[int] = field(default_factory=Counter)
    decisions: dict[float, Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Mark radii that even unanimous samples cannot certify, so that they need no samples."""
        self.decisions = dict.fromkeys(self.plan.radii, "undecided")
        if self.plan.procedure == "sequential":
            most = reachable_radius(self.plan.samples, self.plan.alpha, self.sigma)
            self.decisions |= {radius: "out of reach" for radius in self.plan.radii if radius > most}

    def wanted(self) -> int:
        """The number of samples that are needed until the next test; 0 if all radii are decided."""
        if self.taken < self.plan.selection:
            return self.plan.selection - self.taken
        left = self.plan.samples - self.trials
        if self.plan.procedure == "cohen":
            return left
        if self.trials and "undecided" not in self.decisions.values():
            return 0
        return min(left, LOOK - self.trials % LOOK)

    def observe(self, classes: Sequence[int]) -> None:
        """Count the classes of the next samples, at most ``wanted`` of them."""
        if self.taken < self.plan.selection:
            self.votes.update(classes)
            self.taken += len(classes)
            if self.taken == self.plan.selection:
                self.selected = min(self.votes, key=lambda each: (-self.votes[each], each))
            return
        self.taken += len(classes)
        self.trials += len(classes)
        self.successes += sum(each == self.selected for each in classes)
        if self.plan.procedure == "sequential" and (self.trials % LOOK == 0 or self.trials == self.plan.samples):
            self.look()
        elif self.trials == self.plan.samples:
            self.conclude()

    def look(self) -> None:
        """Decide the radii that can be decided (sequential)."""
        alpha = self.plan.alpha
        self.lower = max(self.lower, sequence_lower(self.successes, self.trials, alpha))
        for radius, decision in self.decisions.items():
            if decision == "undecided":
                p = needed_probability(radius, self.sigma)
                if exceeds(self.successes, self.trials, p, alpha):
                    self.decisions[radius] = "certified"
                elif falls_below(self.successes, self.trials, p, alpha):
                    self.decisions[radius] = "refuted"

    def conclude(self) -> None:
        """Compute one bound from all samples (Cohen)."""
        self.lower = clopper_pearson_lower(self.successes, self.trials, self.plan.alpha)
        for radius in self.decisions:
            if self.lower > needed_probability(radius, self.sigma):
                self.decisions[radius] = "certified"

    @property
    def predicted(self) -> int | None:
        """The class of the smoothed classifier; None if it abstains, because the bound is one half or less."""
        return self.selected if self.lower > 0.5 else None

    @property
    def radius(self) -> float:
        """The certified radius, 0 if the classifier abstains; at least as large as every certified radius."""
        certified = [radius for radius, decision in self.decisions.items() if decision == "certified"]
        return max([certified_radius(self.lower, self.sigma), *certified]) if self.lower > 0.5 else 0.0
