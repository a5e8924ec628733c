"""Signs of masking: silent on an honest classifier, loud on deliberate masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from cmap_cli.attacks.noise import RandomNoise
from cmap_cli.attacks.pgd import PGD, fgsm
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.attacks.types import Attack, GradientDiagnostics
from cmap_cli.benchmarking.checks import Flag, Measurement, masking_flags
from tests.attack_toys import LinearClassifier, images

CLASSES = 4
HEALTHY = GradientDiagnostics(0.0, 0, 0.9)


def measure(model: nn.Module, count: int = 100) -> list[Measurement]:
    """All roles at three radii; the transfer attack comes from the classifier without a mask."""
    x, y = images(count, CLASSES)
    bare, found = LinearClassifier(CLASSES), []
    for eps in ("0.02", "0.06", "0.5"):
        t = parse_threat("Linf", eps)
        attacks: list[tuple[str, Attack, nn.Module]] = [
            ("iterative", PGD(t, "white-box", steps=10), model),
            ("single-step", fgsm(t, "white-box"), model),
            ("noise", RandomNoise(t), model),
            ("other", PGD(t, "transfer", steps=10), bare),
        ]
        for role, attack, target in attacks:
            result = attack.run(target, x, y, 0)
            with torch.no_grad():
                correct = int((model(result.x_adv).argmax(1) == y).sum())
            diagnostics = result.diagnostics if target is model else None
            found.append(Measurement(attack.name, role, attack.access, t.eps, correct, count, diagnostics))  # type: ignore[arg-type]
    return found


def fired(flags: Sequence[Flag]) -> set[str]:
    return {flag.name for flag in flags if flag.fired}


class Rounded(LinearClassifier):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 16).round() / 16 + 0 * x)


class Saturated(LinearClassifier):
    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


class Stepped(LinearClassifier):
    """Scores in coarse steps, whose slope is 0 or not a number."""

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores.round() + (scores - scores.detach()).abs().sqrt()


class Shattered(LinearClassifier):
    """The right scores with a slope that is drawn anew every time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 100 * torch.randn(x.shape) * (x - x.detach()))


def test_an_honest_classifier_raises_no_flag() -> None:
    flags = masking_flags(measure(LinearClassifier(CLASSES)), CLASSES, 0.5)
    assert len(flags) == 8
    assert all(flag.checked for flag in flags)
    assert fired(flags) == set()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Rounded(CLASSES), {"zero-gradients", "weaker-access", "chance"}),
        (Saturated(CLASSES), {"zero-gradients", "weaker-access", "chance"}),
        (Stepped(CLASSES), {"not-finite-gradients", "weaker-access", "chance"}),
        (Shattered(CLASSES), {"random-gradients"}),
    ],
    ids=["rounded", "saturated", "stepped", "shattered"],
)
def test_masks_are_found(mask: nn.Module, expected: set[str]) -> None:
    found = fired(masking_flags(measure(mask), CLASSES, 0.5))
    assert expected <= found


PGD_RUN = Measurement("PGD-100", "iterative", "white-box", 8 / 255, 40, 100, HEALTHY)


def change(**values: object) -> Measurement:
    return dataclasses.replace(PGD_RUN, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("larger-eps", change(eps=16 / 255, correct=60)),
        ("single-step", change(attack="FGSM", role="single-step", correct=20)),
        ("weaker-access", change(attack="square", role="other", access="black-box", correct=20)),
        ("weaker-access", change(access="transfer", correct=20)),
        ("noise", change(attack="noise", role="noise", access="black-box", correct=20)),
        ("chance", change(eps=0.5, correct=30)),
        ("zero-gradients", change(eps=0.4, correct=5, diagnostics=GradientDiagnostics(0.9, 0, 0.9))),
        ("not-finite-gradients", change(eps=0.4, correct=5, diagnostics=GradientDiagnostics(0.0, 1, 0.9))),
        ("random-gradients", change(eps=0.4, correct=5, diagnostics=GradientDiagnostics(0.0, 0, 0.01))),
    ],
)
def test_each_sign_fires_its_flag_and_no_other(name: str, other: Measurement) -> None:
    flags = masking_flags([PGD_RUN, other], 10, 0.5)
    assert fired(flags) == {name}
    (flag,) = (flag for flag in flags if flag.fired)
    assert other.attack in flag.what


def test_differences_that_chance_explains_do_not_fire() -> None:
    others = [
        change(eps=16 / 255, correct=48),
        change(attack="FGSM", role="single-step", correct=32),
        change(attack="square", role="other", access="black-box", correct=32),
        change(attack="noise", role="noise", access="black-box", correct=32),
        change(eps=0.5, correct=13),
    ]
    for other in others:
        assert fired(masking_flags([PGD_RUN, other], 10, 0.5)) == set()
    many = [dataclasses.replace(run, correct=100 * run.correct, n=10_000) for run in (PGD_RUN, others[0])]
    assert fired(masking_flags(many, 10, 0.5)) == {"larger-eps"}  # the same difference over more images


def test_checks_that_lack_attacks_say_what_they_need() -> None:
    flags = masking_flags([change(diagnostics=None)], 10, 0.5)
    assert not any(flag.checked or flag.fired for flag in flags)
    assert all(flag.what.startswith("needs ") for flag in flags)
