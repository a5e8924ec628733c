"""The conditions of a CI job on a run of ``cmap certify``; not met if the run lacks what they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cmap_cli.benchmarking.certificates.documents import CertificateReport
from cmap_cli.benchmarking.report.words import counted
from cmap_cli.choices import FailOn
from cmap_cli.errors import CmapError, UsageError, collecting, raise_all

HINT = "write 0.25=0.3, or 0.12@0.1=0.6 for the noise level 0.12"


@dataclass(frozen=True, slots=True)
class CertifyThreshold:
    """The lowest certified accuracy at a radius that passes.

    Attributes:
        value: in [0, 1].
        radius: ℓ2 radius, for images in [0, 1].
        sigma: standard deviation of the noise; None for the only noise level of a run.
        spelled: as the user wrote it.
    """

    value: float
    radius: float
    sigma: float | None
    spelled: str

    @property
    def what(self) -> str:
        """What is judged, for messages."""
        level = "" if self.sigma is None else f" with sigma {self.sigma:g}"
        return f"certified accuracy at ℓ2 {self.radius:g}{level}"


def parse_certify_thresholds(texts: Sequence[str]) -> tuple[CertifyThreshold, ...]:
    """Thresholds as the user writes them: RADIUS=SHARE or SIGMA@RADIUS=SHARE (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    found: list[CertifyThreshold] = []
    for text in texts:
        with collecting(problems):
            found.append(parse_one(text))
    raise_all(problems)
    return tuple(found)


def parse_one(text: str) -> CertifyThreshold:
    """One threshold (UsageError)."""
    terms, _, share = text.rpartition("=")
    level, _, radius = terms.rpartition("@")
    try:
        threshold = CertifyThreshold(float(share), float(radius), float(level) if level else None, text)
    except ValueError as error:
        raise UsageError(f"--fail-under {text} is not a radius and a share", HINT) from error
    if not 0 <= threshold.value <= 1:
        raise UsageError(f"--fail-under {text} is not between 0 and 1", HINT)
    return threshold


def refuse_certify_thresholds(
    thresholds: Sequence[CertifyThreshold], sigmas: Sequence[float], radii: Sequence[float]
) -> None:
    """Refuse a run that cannot meet the conditions, before it starts (all problems at once as UsageError)."""
    problems: list[CmapError] = []
    for each in thresholds:
        if each.sigma is None and len(sigmas) > 1:
            problems.append(
                UsageError(
                    f"--fail-under {each.spelled} names no noise level, and the run has several",
                    f"--fail-under {sigmas[0]:g}@{each.spelled}",
                )
            )
        if each.sigma is not None and find(sigmas, each.sigma) is None:
            problems.append(
                UsageError(f"--fail-under {each.spelled} names a noise level that is not measured", "--sigma")
            )
        if find(radii, each.radius) is None:
            problems.append(
                UsageError(
                    f"--fail-under {each.spelled} names a radius that is not decided", f"--radius {each.radius:g}"
                )
            )
    raise_all(problems)


def find(values: Sequence[float], wanted: float) -> int | None:
    """The index of a number in a sequence."""
    return next((place for place, each in enumerate(values) if math.isclose(each, wanted, abs_tol=1e-12)), None)


def failed_certify_conditions(
    report: CertificateReport, thresholds: Sequence[CertifyThreshold], fail_on: FailOn, missing: Sequence[str] = ()
) -> list[str]:
    """The conditions that a run does not meet, one sentence each; a run that is not complete meets none.

    Args:
        report: report of the run.
        thresholds: the conditions.
        fail_on: "estimate", or "interval" for the lower end of the Wilson interval.
        missing: shards and images that a merge did not find.
    """
    if not thresholds:
        return []
    failed = [f"the run is not complete, so it cannot pass: {each}" for each in missing]
    if not report.complete and not failed:
        failed = ["the run is not complete, so it cannot pass: images are missing"]
    for each in thresholds:
        failed += failed_threshold(report, each, fail_on)
    return failed


def failed_threshold(report: CertificateReport, threshold: CertifyThreshold, fail_on: FailOn) -> list[str]:
    """A sentence if a certified accuracy is below its limit, or was not measured."""
    sigmas = [one.sigma for one in report.results]
    place = find(sigmas, threshold.sigma) if threshold.sigma is not None else 0 if len(sigmas) == 1 else None
    radii = [] if place is None else report.results[place].radii
    radius = find([each.radius for each in radii], threshold.radius)
    if radius is None or not radii[radius].certified.n:
        return [f"there is no {threshold.what} to compare with {threshold.value:g}"]
    found = radii[radius].certified
    value = found.low if fail_on == "interval" else found.value
    end = " (lower end of the 95 % interval)" if fail_on == "interval" else ""
    if value >= threshold.value:
        return []
    measured = f"{found.count} of {counted(found.n, 'image')}, 95 % interval {found.low:.3f} to {found.high:.3f}"
    return [f"{threshold.what} is {value:.3f}{end}, below {threshold.value:g} ({measured})"]
