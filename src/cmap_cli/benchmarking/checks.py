"""Checks for masked gradients, with which a defence looks robust (Athalye et al. 2018, Carlini et al. 2019).

The first functions take counts and raise a flag if, for example, a stronger attack leaves more images correct than a
weaker one. The last functions apply them to the report of a run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from cmap_cli.attacks.table import ATTACKS, Role
from cmap_cli.attacks.types import GradientDiagnostics
from cmap_cli.benchmarking.certificates.violations import check_certificates
from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.report.build import build_report, with_flags
from cmap_cli.benchmarking.report.records import RECORDS_FILE
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Report
from cmap_cli.benchmarking.report.words import counted
from cmap_cli.benchmarking.report.write import save_report
from cmap_cli.benchmarking.specs import LARGE
from cmap_cli.benchmarking.weakness import weak_points
from cmap_cli.choices import Access
from cmap_cli.errors import UsageError
from cmap_cli.runs.journal import read_lines
from cmap_cli.runs.settings import SETTINGS_FILE

CERTIFICATES = "certificates"
"""The check that no attack breaks a certificate; if it fires, no condition can be met."""
SMOOTHED = "smoothed"
DEFAULT_CLASSES = 10
WHITE: tuple[Access, ...] = ("white-box", "bpda", "adaptive")
Z = 1.645
"""Normal quantile for one-sided 95 %: a check does not fire for differences that chance can explain."""
NEAR_CHANCE = 1.5
"""Accuracy at a very large eps counts as above chance if it is larger than chance by this factor."""
ZERO_SHARE = 0.2
"""Share of zero entries from which gradients count as vanished; networks without masking are far below it."""
NOISE_COSINE = 0.05
"""Mean cosine between two draws below which gradients count as noise; random vectors of 3072 entries have ±0.02."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of one attack at one radius, for the checks.

    Attributes:
        attack: name of the attack.
        role: how the checks use it; "other" for anything that is neither plain PGD, FGSM nor noise.
        access: what the attacker knows of the defence.
        eps: the radius; all compared attacks have the same norm.
        correct: number of images that are classified correctly under the attack.
        n: number of images; the same images for all attacks.
        diagnostics: diagnostics of its gradients.
    """

    attack: str
    role: Role
    access: Access
    eps: float
    correct: int
    n: int
    diagnostics: GradientDiagnostics | None = None

    @property
    def accuracy(self) -> float:
        """The accuracy in [0, 1]."""
        return self.correct / self.n

    def __str__(self) -> str:
        """Name, access, radius and accuracy."""
        return f"{self.attack} ({self.access}, eps {self.eps:.4g}) leaves {self.correct} of {self.n} right"


@dataclass(frozen=True, slots=True)
class Flag:
    """The outcome of one check.

    Attributes:
        name: key of the check.
        fired: whether it found a sign of masking.
        what: a sentence: what was found, that nothing was found, or what is missing for the check.
        checked: whether there was anything to check.
    """

    name: str
    fired: bool
    what: str
    checked: bool = True


def is_significantly_higher(first: Measurement, second: Measurement) -> bool:
    """Whether the first accuracy is above the second by more than chance: one-sided test of two proportions."""
    pooled = (first.correct + second.correct) / (first.n + second.n)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / first.n + 1 / second.n))
    return first.accuracy - second.accuracy > Z * deviation


def masking_flags(measurements: Sequence[Measurement], classes: int, large_eps: float) -> list[Flag]:
    """All checks of docs/explanation/evaluation.md, each with its outcome.

    Args:
        measurements: results on one defence in one norm, on the same images.
        classes: number of classes of the data; chance is 1 / classes.
        large_eps: radius from which an attack can turn any image into any other, 0.5 for Linf.
    """
    runs = list(measurements)
    pairs = list(product(runs, runs))
    iterative = [run for run in runs if run.role == "iterative"]
    larger = [
        (big, small)
        for big, small in pairs
        if (big.attack, big.role, big.access) == (small.attack, small.role, small.access)
        and big.eps > small.eps
        and big.role != "noise"
    ]
    single = [(a, b) for a, b in pairs if _same(a, b) and a in iterative and b.role == "single-step"]
    white = [run for run in runs if run.access in WHITE and run.role in ("iterative", "other")]
    bests = [min((run for run in white if run.eps == eps), key=lambda run: run.accuracy) for eps in _radii(white)]
    others = [run for run in runs if run.access in ("transfer", "surrogate", "black-box") and run.role != "noise"]
    ignorant = [(a, b) for a, b in product(bests, others) if a.eps == b.eps]
    noise = [(a, b) for a, b in product(iterative, runs) if a.eps == b.eps and b.role == "noise"]
    return [
        _order("larger-eps", larger, "more accurate at a larger eps", "one attack at two radii"),
        _chance(runs, classes, large_eps),
        _order("single-step", single, "iterating is weaker than a single step", "PGD and FGSM at one eps"),
        _order(
            "weaker-access",
            ignorant,
            "attacks on the defence itself are weaker than one that knows less of it",
            "attacks through the defence beside transfer, surrogate or black-box ones at one eps",
        ),
        _order("noise", noise, "an attack is weaker than random noise of the same norm", "PGD and random noise"),
        *_gradients([run for run in runs if run.diagnostics is not None]),
    ]


def _same(a: Measurement, b: Measurement) -> bool:
    return a.access == b.access and a.eps == b.eps


def _radii(runs: Sequence[Measurement]) -> list[float]:
    return sorted({run.eps for run in runs})


def _order(name: str, pairs: Sequence[tuple[Measurement, Measurement]], wrong: str, needed: str) -> Flag:
    """Of each pair the first attack must not leave more images correct than the second."""
    if not pairs:
        return Flag(name, False, f"needs {needed}", checked=False)
    for first, second in pairs:
        if is_significantly_higher(first, second):
            return Flag(name, True, f"{wrong}: {first}, {second}")
    return Flag(name, False, f"as it should be in {counted(len(pairs), 'comparison')}")


def _chance(runs: Sequence[Measurement], classes: int, large_eps: float) -> Flag:
    """At a radius at which an attack can replace the whole image, accuracy must not be above chance."""
    large = [run for run in runs if run.eps >= large_eps and run.role == "iterative"]
    if not large:
        return Flag("chance", False, f"needs PGD at eps {large_eps:.4g} or more", checked=False)
    strongest = min(large, key=lambda run: run.accuracy)
    bound = NEAR_CHANCE / classes
    if strongest.accuracy > bound + Z * math.sqrt(bound * (1 - bound) / strongest.n):
        what = f"above chance at an eps that lets an attack replace the image: {strongest}, chance is 1 in {classes}"
        return Flag("chance", True, what)
    return Flag("chance", False, f"no better than chance at a very large eps: {strongest}")


def _gradients(runs: Sequence[Measurement]) -> Iterator[Flag]:
    """Gradients with many zero entries, with NaN or infinite entries, or with draws that do not agree."""
    for name, defect in GRADIENT_DEFECTS.items():
        defects = {str(run): defect(run.diagnostics) for run in runs if run.diagnostics is not None}
        if not defects:
            yield Flag(name, False, "needs an attack that follows gradients", checked=False)
            continue
        bad = [f"{defect} in {run}" for run, defect in defects.items() if defect]
        yield Flag(name, bool(bad), "; ".join(bad) or "gradients are as they should be")


def _zero(found: GradientDiagnostics) -> str:
    return f"{found.zero_share:.0%} of a gradient exactly 0" if found.zero_share > ZERO_SHARE else ""


def _not_finite(found: GradientDiagnostics) -> str:
    return f"{found.non_finite} entries of a gradient not finite" if found.non_finite else ""


def _random(found: GradientDiagnostics) -> str:
    if (
        found.cosine is None or found.cosine >= NOISE_COSINE or _zero(found) or _not_finite(found)
    ):  # those say it already
        return ""
    return f"a cosine of {found.cosine:.2f} between two draws of a gradient"


GRADIENT_DEFECTS: dict[str, Callable[[GradientDiagnostics], str]] = {
    "zero-gradients": _zero,
    "not-finite-gradients": _not_finite,
    "random-gradients": _random,
}


def write_checked_report(folder: Path) -> Report:
    """Compute the report of a run with all checks, and write report.json, report.md and report.html.

    Raises:
        CmapError: the folder holds no run, or a file cannot be read or written.
    """
    report = build_report(folder)
    flags = [*autoattack_flags(folder), *certificate_flags(folder, report)]
    for defense in report.defenses:
        flags += defense_flags(report, defense)
    checked = dataclasses.replace(with_flags(report, flags), weak=weak_points(report))
    save_report(folder, checked)
    return checked


def autoattack_flags(folder: Path) -> Iterator[Flag]:
    """AutoAttack's warnings, one flag per attack and warning."""
    seen: dict[str, None] = {}
    for record in read_lines(folder / RECORDS_FILE, BenchmarkRecord):
        for text in record.flags:
            seen[f"{record.attack}@{record.access} on {record.defense}: {text}"] = None
    return (Flag("autoattack", True, what) for what in seen)


def certificate_flags(folder: Path, report: Report) -> Iterator[Flag]:
    """Whether the certificates of the defence "smoothed" hold against every attack of the run."""
    if SMOOTHED not in (one.defense for one in report.defenses):
        return
    records = (each for each in read_lines(folder / RECORDS_FILE, BenchmarkRecord) if each.defense == SMOOTHED)
    sigma, shape = report.settings.get("sigma"), report.provenance.get("image_shape")
    if not isinstance(sigma, int | float) or sigma <= 0:
        raise UsageError(f"{folder / SETTINGS_FILE} lacks the noise of the defence {SMOOTHED}")
    if not shape:
        yield Flag(CERTIFICATES, False, "needs images of one size", checked=False)
        return
    found = check_certificates(records, sigma, math.prod(shape))
    shares = "".join(f"; {right} of {n} correct and certified in {ball}" for ball, right, n in found.shares)
    if found.violations:
        what = f"{len(found.violations)} of {found.comparisons} comparisons: {found.violations[0]}"
        yield Flag(CERTIFICATES, True, f"{what}; a certificate that is violated is an error of the program")
    elif not found.images:
        yield Flag(CERTIFICATES, False, "needs --reevaluations 2 or more", checked=False)
    else:
        what = f"{found.certified} of {found.images} images have one, {found.comparisons} attacked images lie inside"
        yield Flag(CERTIFICATES, False, f"{what}, and none is violated{shares}", checked=bool(found.comparisons))


def defense_flags(report: Report, defense: DefenseResult) -> Iterator[Flag]:
    """The masking checks on one defence, in each norm, without checks that had nothing to check."""
    classes = len(report.provenance.get("classes") or ()) or DEFAULT_CLASSES
    for norm in dict.fromkeys(threat.norm for threat in defense.threats):
        measured = [
            measurement(result, threat.eps_value)
            for threat in defense.threats
            if threat.norm == norm
            for result in (*threat.attacks, *threat.controls)
        ]
        for flag in masking_flags(measured, classes, float(LARGE[norm])):  # type: ignore[index]  # a Norm, from JSON
            yield Flag(flag.name, flag.fired, f"{defense.defense}: {flag.what}", flag.checked)


def measurement(result: AttackRow, eps: float) -> Measurement:
    """The result of an attack in the form that the checks need.

    Images that a cascade skipped count as wrong: the count is that of the attack and the earlier attacks together. It
    may be compared with attacks that know less, but it is not the result of PGD alone.
    """
    gradient = result.gradient
    found = None
    if gradient is not None and gradient.zero is not None:
        found = GradientDiagnostics(gradient.zero, gradient.not_finite, gradient.cosine)
    access: Access = result.access  # type: ignore[assignment]  # from JSON, written by us
    role: Role = ATTACKS[result.attack].role if result.attack in ATTACKS and not result.skipped else "other"
    right = result.defended.vote.right if result.defended else 0
    return Measurement(result.attack, role, access, eps, right, result.run_on + len(result.skipped), found)
