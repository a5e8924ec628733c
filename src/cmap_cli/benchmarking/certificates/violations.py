"""Checks whether attacks break certificates; if one does, this program has a bug."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from cmap_cli.benchmarking.certificates.bounds import certified_radius, clopper_pearson_lower, clopper_pearson_upper
from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.defenses.smoothing import ROUNDING

LEVEL = 0.001
"""Probability that a correct program shows a violation by chance, per run."""
CLEAN = "clean"
WIDEST: dict[str | None, Callable[[int], float]] = {"L2": lambda d: 1.0, "L1": lambda d: 1.0, "Linf": math.sqrt}
"""The ℓ2 norm of the longest change in a ball of radius 1, by the ball's norm and the number of values."""


@dataclass(frozen=True, slots=True)
class ImageCertificate:
    """The certificate of an image, from its clean records.

    Attributes:
        selected: the most frequent class of the first re-evaluation.
        lower: lower bound of its probability, from the other re-evaluations.
        radius: certified ℓ2 radius for images in [0, 1]; 0 without a certificate.
        correct: whether the class is the label of the image.
    """

    selected: str
    lower: float
    radius: float
    correct: bool


@dataclass(frozen=True, slots=True)
class CertificateCheck:
    """The result of the check.

    Attributes:
        images: number of images that have votes on the clean image.
        certified: number of these that have a radius above 0.
        comparisons: number of attacked images inside the radius of their certificate.
        violations: violations, a sentence each.
        shares: for each ball: (name, number of images that are correct and certified in it, number of images).
    """

    images: int
    certified: int
    comparisons: int
    violations: tuple[str, ...]
    shares: tuple[tuple[str, int, int], ...]


def image_certificate(
    votes: tuple[Mapping[str, int], ...], label: int, sigma: float, alpha: float
) -> ImageCertificate | None:
    """The certificate from the votes of re-evaluations; None with fewer than two of them."""
    if len(votes) < 2:
        return None
    selected = min(votes[0], key=lambda each: (-votes[0][each], int(each)))
    successes, n = count_class(votes[1:], selected)
    lower = clopper_pearson_lower(successes, n, alpha)
    return ImageCertificate(selected, lower, certified_radius(lower, sigma), selected == str(label))


def count_class(votes: Iterable[Mapping[str, int]], selected: str) -> tuple[int, int]:
    """The number of samples with this class, and the number of all samples."""
    total: Counter[str] = Counter()
    for each in votes:
        total.update(each)
    return total[selected], total.total()


def needed_after(lower: float, distance: float, sigma: float) -> float:
    """Φ(Φ⁻¹(p) − d/σ): the least probability of a class at the distance d (Cohen et al. 2019)."""
    return float(ndtr(ndtri(lower) - distance / sigma))


def check_certificates(records: Iterable[BenchmarkRecord], sigma: float, values: int) -> CertificateCheck:
    """Compare the votes on attacked images with the certificates of the clean images.

    An attacked image inside the radius violates its certificate if an upper bound of the probability of the certified
    class is below the least probability by theorem 1 of Cohen et al. The probability that any of these bounds is wrong
    is at most LEVEL.

    Args:
        records: records of the defence "smoothed", in any order.
        sigma: standard deviation of its noise, for images in [0, 1].
        values: number of values of an image, C·H·W.
    """
    clean: dict[int, BenchmarkRecord] = {}
    attacked: list[BenchmarkRecord] = []
    for record in records:
        if record.attack == CLEAN:
            clean[record.image] = record
        elif record.l2 is not None and record.votes:
            attacked.append(record)
    alpha = LEVEL / max(1, len(clean) + len(attacked))
    certificates = {
        image: found
        for image, record in clean.items()
        if (found := image_certificate(record.votes, record.label, sigma, alpha)) is not None
    }
    comparisons, violations = 0, []
    for record in attacked:
        certificate = certificates.get(record.image)
        distance = (record.l2 or 0.0) + 2 * ROUNDING * math.sqrt(values)
        if certificate is None or distance >= certificate.radius:
            continue
        comparisons += 1
        left = needed_after(certificate.lower, distance, sigma)
        upper = clopper_pearson_upper(*count_class(record.votes, certificate.selected), alpha)
        if upper < left:
            violations.append(
                f"{record.key} is certified for ℓ2 {certificate.radius:.3f}, and at {record.l2:.3f} "
                f"({record.item}) class {certificate.selected} has at most {upper:.3f} of the votes instead of "
                f"{left:.3f} or more"
            )
    radii = [each.radius for each in certificates.values()]
    return CertificateCheck(
        len(certificates),
        sum(radius > 0 for radius in radii),
        comparisons,
        tuple(violations),
        certified_shares(attacked, certificates.values(), values),
    )


def certified_shares(
    attacked: Iterable[BenchmarkRecord], certificates: Collection[ImageCertificate], values: int
) -> tuple[tuple[str, int, int], ...]:
    """For each ball: its name, number of images that are correct and certified in the whole ball, number of images."""
    balls = {
        f"{each.norm} {each.eps}": each.eps_value * WIDEST[each.norm](values)
        for each in attacked
        if each.norm in WIDEST and each.eps_value is not None and not each.control
    }
    return tuple(
        (name, sum(each.correct and each.radius > reach for each in certificates), len(certificates))
        for name, reach in balls.items()
    )
