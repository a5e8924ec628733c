"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690); the only import of pyautoattack."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import pyautoattack
import torch
from pyautoattack import checks
from torch import Tensor, nn

from cmap_cli.attacks.randomness import seeded
from cmap_cli.attacks.table import Budget, gradient_draws
from cmap_cli.attacks.threat import ThreatModel
from cmap_cli.attacks.types import AttackResult
from cmap_cli.choices import Access
from cmap_cli.errors import UsageError

Version = Literal["standard", "plus", "rand", "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
PAPER_EOT = 20
SETS = ("standard", "plus", "rand")
NEEDED_CLASSES = {"standard": 4, "plus": 4, "apgd-t": 4, "rand": 3, "apgd-dlr": 3}
"""Fewest classes per version: some losses use the third or fourth largest score, and pyautoattack fails without it."""
PHRASES = (
    (
        "randomized defense",
        "the scores of an image differ from call to call, but this version of AutoAttack needs equal scores; "
        "--attack autoattack-rand averages over draws",
    ),
    (
        "dynamic defense",
        "the model computes gradients while it classifies, for which AutoAttack was not made: it may overestimate "
        "the accuracy",
    ),
    ("probability distribution", "the classifier returns probabilities; attacks need its logits"),
    (r"there are (\d+) points with zero gradient", r"the gradient is exactly zero for \1 of the images of a batch"),
    (
        r"Square Attack has decreased the robust accuracy of ([\d.]+)%",
        r"Square, which needs no gradients, lowered accuracy by another \1 % after the attacks that follow them: their "
        "gradients mislead",
    ),
    (r"with only (\d+) classes|(\d+) possible\)|possible \((\d+)\)", "the model has too few classes for this attack"),
)
"""Patterns of AutoAttack's warnings, and the sentence that a report shows instead."""
UNKNOWN = "AutoAttack gave a warning that this version of cmap does not know"


@dataclass(frozen=True, slots=True)
class AutoAttack:
    """A sequence of attacks, each run on the images that the attacks before did not break, or a single one of them.

    If it fails on an image it returns the clean image: ``x_adv`` equals ``x`` wherever ``reported_success`` is False.
    If a defence is put in front later, such an image counts as not attacked.

    Attributes:
        threat: norm and radius.
        access: what the attacker knows of the attacked model.
        version: "standard"; "plus"; "rand", for randomised defences; or one component.
        n_iter: iterations of APGD and FAB; None for AutoAttack's default, 100.
        n_restarts: restarts of APGD and FAB; None for AutoAttack's default.
        n_queries: queries of Square; None for AutoAttack's default, 5000.
        eot_iter: draws per gradient of APGD; None for AutoAttack's default, 1 ("rand": 20).
    """

    threat: ThreatModel
    access: Access
    version: Version = "standard"
    n_iter: int | None = None
    n_restarts: int | None = None
    n_queries: int | None = None
    eot_iter: int | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown version (UsageError)."""
        if self.version not in get_args(Version):
            raise UsageError(f"AutoAttack has no {self.version}", f"one of {', '.join(get_args(Version))}")

    @property
    def name(self) -> str:
        """The version, and every setting that is not AutoAttack's default."""
        name = f"AutoAttack {self.version}" if self.version in SETS else self.version
        settings = {
            "n_iter": self.n_iter,
            "n_restarts": self.n_restarts,
            "n_queries": self.n_queries,
            "eot_iter": self.eot_iter,
        }
        changed = ", ".join(f"{key}={value}" for key, value in settings.items() if value is not None)
        return f"{name} ({changed})" if changed else name

    def run(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack one image after the other, see :class:`~cmap_cli.attacks.types.Attack`.

        Images are not attacked in a batch, because pyautoattack draws the random numbers of a batch from one generator:
        the result of an image would depend on the other images.

        Raises:
            UsageError: the model has too few classes for this version.
        """
        x = x.detach().contiguous()
        found = [self._run_one(model, x[row : row + 1], y[row : row + 1], seed) for row in range(len(x))]
        flags = dict.fromkeys(flag for each in found for flag in each.flags)
        x_adv = torch.cat([each.x_adv for each in found])
        return AttackResult(x_adv, torch.cat([each.reported_success for each in found]), flags=tuple(flags))

    def _run_one(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> AttackResult:
        """Attack one image (1, C, H, W) with label (1,)."""
        with seeded(model, x, seed):
            with torch.no_grad():
                classes = model(x).shape[1]
            if classes < NEEDED_CLASSES.get(self.version, 2):
                raise UsageError(
                    f"{self.name} needs {NEEDED_CLASSES[self.version]} classes at least, the model has {classes}",
                    "run apgd-ce, fab or square",
                )
            suite = self._suite(model, x.device, classes, seed)
        with seeded(model, x, seed), recorded_flags() as flags:
            x_adv, y_adv = suite.run_standard_evaluation(x, y, batch_size=1)
        return AttackResult(x_adv.detach(), y_adv != y, flags=tuple(flags))

    def _suite(self, model: nn.Module, device: torch.device, classes: int, seed: int) -> pyautoattack.AutoAttack:
        """The attack object of pyautoattack, with the settings of this object."""
        chosen = {"version": self.version} if self.version in SETS else {"version": "custom", "attacks": [self.version]}
        suite = pyautoattack.AutoAttack(
            model, norm=self.threat.norm, eps=self.threat.eps, seed=seed, device=device, **chosen
        )
        for apgd in (suite.apgd, suite.apgd_targeted):
            if self.n_iter is not None:
                apgd.n_iter = apgd.n_iter_orig = self.n_iter
                apgd.n_iter_2 = max(int(0.22 * self.n_iter), 1)
                apgd.n_iter_min = max(int(0.06 * self.n_iter), 1)
                apgd.size_decr = max(int(0.03 * self.n_iter), 1)
            apgd.eot_iter = self.eot_iter or apgd.eot_iter
        for attack in (suite.apgd, suite.apgd_targeted, suite.fab):
            attack.n_restarts = self.n_restarts or attack.n_restarts
        suite.fab.n_iter = self.n_iter or suite.fab.n_iter
        suite.square.n_queries = self.n_queries or suite.square.n_queries
        for targeted in (suite.apgd_targeted, suite.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
        return suite


@contextmanager
def recorded_flags() -> Iterator[list[str]]:
    """Collect the warnings of AutoAttack's checks inside the context, translated by :func:`phrase`.

    AutoAttack's checks count calls in a global table that is never emptied, so a dynamic defence would cause warnings
    for every later model; the table is reset. They also switch tracing off, on which coverage and debuggers rely;
    tracing is restored.
    """
    flags: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            flags.append(phrase(record.getMessage()))

    logger, handler, trace = logging.getLogger("auto-attack"), Collector(logging.WARNING), sys.gettrace()
    propagate = logger.propagate
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield flags
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        sys.settrace(trace)


def phrase(message: str) -> str:
    """The sentence for a warning of AutoAttack, which names options of cmap."""
    for pattern, words in PHRASES:
        if match := re.search(pattern, message):
            return match.expand(words)
    return UNKNOWN


def build_autoattack(
    threat: ThreatModel, access: Access, budget: Budget, defenses: object, version: Version
) -> AutoAttack:
    """A row of :data:`~cmap_cli.attacks.table.ATTACKS`."""
    if version == "square":
        return AutoAttack(threat, access, version, n_queries=budget.queries)
    eot = PAPER_EOT if budget.paper and access != "transfer" else gradient_draws(budget, access)
    return AutoAttack(threat, access, version, eot_iter=eot if eot > 1 else None)
