"""Images and samples of ``cmap certify`` for a given time on this device, and what they buy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.budget import chosen_before, widths
from cmap_cli.benchmarking.certificates.bounds import certified_radius, clopper_pearson_lower, reachable_radius
from cmap_cli.benchmarking.certificates.documents import read_certify
from cmap_cli.benchmarking.certificates.settings import SAMPLES, CertifySettings
from cmap_cli.choices import Procedure
from cmap_cli.errors import UsageError
from cmap_cli.runs.settings import CERTIFY_FILE

SLOWER = 1.25
"""What the time of a sample may be more than measured, and the plan still ends in time."""
FEWEST_IMAGES = 10
FEWEST_SAMPLES: dict[Procedure, int] = {"sequential": 200, "cohen": 500}
LADDER: dict[Procedure, tuple[tuple[str, int], ...]] = {
    "sequential": (("n", 25), ("samples", 300), ("n", 50), ("samples", 500), ("n", 100), ("samples", 1000), ("n", 500)),
    "cohen": (("n", 25), ("samples", 1000), ("n", 100), ("samples", 10_000), ("n", 500), ("samples", 100_000)),
}
"""What is increased in turn while the time suffices."""


@dataclass(frozen=True, slots=True)
class CertifyTimePlan:
    """Settings that were chosen for a time, and what they buy.

    Attributes:
        seconds: the time.
        deadline: of ``time.monotonic()``, when the samples have to end.
        chosen: "n" and "samples", where the user has not given them.
        longest: seconds that the samples take at most, if none takes longer than measured.
        widths: of the 95 % interval in points: if no image is certified, and if half of them are.
        reach: for each noise level the radius that an image gets whose samples all have its class.
    """

    seconds: float
    deadline: float
    chosen: Mapping[str, int]
    longest: float
    widths: tuple[float, float]
    reach: tuple[tuple[float, float], ...]


def plan_certify_time(
    settings: CertifySettings, available: int, samples_per_second: float, seconds: float, left: float
) -> dict[str, int]:
    """Choose n and samples, where they are not given, so that the run ends in time even if no image is easy.

    Args:
        settings: of the user.
        available: images.
        samples_per_second: measured.
        seconds: the whole time.
        left: of it, for samples.

    Raises:
        UsageError: not even the fewest images and samples take that little.
    """
    chosen: dict[str, int] = {}
    if settings.n is None:
        chosen["n"] = min(FEWEST_IMAGES, available)
    if settings.samples is None:
        chosen["samples"] = fewest_samples(settings)

    def takes(values: Mapping[str, int]) -> float:
        return SLOWER * longest(settings, values, available, samples_per_second)

    if takes(chosen) > left:
        raise UsageError(
            f"--budget of {seconds:g} s is too short: {text_of(settings, chosen, available)} take up to "
            f"{takes(chosen):.0f} s here",
            "a longer --budget, fewer --sigma, or fewer --n or --samples",
        )
    for name, wanted in LADDER[settings.procedure]:
        value = min(wanted, available) if name == "n" else wanted
        if name not in chosen or value <= chosen[name]:
            continue
        if takes(chosen | {name: value}) <= left:
            chosen[name] = value
        elif name == "n":  # as many as there is time for, before anything else is increased
            break
    while "n" in chosen and chosen["n"] < available and takes(chosen | {"n": chosen["n"] + 1}) <= left:
        chosen["n"] += 1
    return chosen


def fewest_samples(settings: CertifySettings) -> int:
    """The fewest samples that can decide each radius that the default number can."""
    usual, values = SAMPLES[settings.procedure], FEWEST_SAMPLES[settings.procedure]
    if settings.procedure == "cohen":
        return values

    def decided(samples: int) -> set[tuple[float, float]]:
        return {
            (sigma, radius)
            for sigma in settings.sigma
            for radius in settings.radius
            if radius <= reachable_radius(samples, settings.alpha, sigma)
        }

    steps = [values, *(value for name, value in LADDER["sequential"] if name == "samples")]
    return next(value for value in steps if decided(value) == decided(usual))


def longest(settings: CertifySettings, chosen: Mapping[str, int], available: int, samples_per_second: float) -> float:
    """Seconds of all samples, if each image takes the most."""
    n, samples = chosen.get("n", settings.n or available), chosen.get("samples", settings.bound_samples)
    return n * len(settings.sigma) * (settings.selection_samples + samples) / samples_per_second


def describe_time(
    settings: CertifySettings,
    chosen: Mapping[str, int],
    n: int,
    samples_per_second: float,
    seconds: float,
    deadline: float,
) -> CertifyTimePlan:
    """What chosen settings buy, with n images."""
    samples = chosen.get("samples", settings.bound_samples)
    if settings.procedure == "sequential":
        reach = [(sigma, reachable_radius(samples, settings.alpha, sigma)) for sigma in settings.sigma]
    else:
        lower = clopper_pearson_lower(samples, samples, settings.alpha)
        reach = [(sigma, certified_radius(lower, sigma)) for sigma in settings.sigma]
    most = longest(settings, chosen, n, samples_per_second)
    return CertifyTimePlan(seconds, deadline, chosen, most, widths(n), tuple(reach))


def text_of(settings: CertifySettings, chosen: Mapping[str, int], available: int) -> str:
    """The plan for people: "100 images with 500 samples each"."""
    n, samples = chosen.get("n", settings.n or available), chosen.get("samples", settings.bound_samples)
    levels = f" for each of {len(settings.sigma)} noise levels" if len(settings.sigma) > 1 else ""
    most = "at most " if settings.procedure == "sequential" else ""
    return f"{n} image{'s' * (n != 1)} with {most}{samples:,} samples each{levels}"


def with_chosen(settings: CertifySettings, chosen: Mapping[str, int]) -> CertifySettings:
    """The settings of the user with what was chosen for the time."""
    options: dict[str, Any] = dict(chosen)
    return dataclasses.replace(settings, **options)


def recorded_certify_plan(folder: Path, seconds: float) -> dict[str, int] | None:
    """The settings that an earlier run with the same time has chosen in a folder; None if it has none.

    Raises:
        UsageError: it had another time.
    """
    if not (folder / CERTIFY_FILE).exists():
        return None
    return chosen_before(read_certify(folder).provenance, folder, seconds)
