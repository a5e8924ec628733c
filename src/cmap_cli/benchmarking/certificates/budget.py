"""Chooses images and samples of ``cmap certify`` for a given time on this device."""

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
"""The plan still ends in time if a sample takes longer than measured by up to this factor."""
FEWEST_IMAGES = 10
FEWEST_SAMPLES: dict[Procedure, int] = {"sequential": 200, "cohen": 500}
LADDER: dict[Procedure, tuple[tuple[str, int], ...]] = {
    "sequential": (("n", 25), ("samples", 300), ("n", 50), ("samples", 500), ("n", 100), ("samples", 1000), ("n", 500)),
    "cohen": (("n", 25), ("samples", 1000), ("n", 100), ("samples", 10_000), ("n", 500), ("samples", 100_000)),
}
"""Settings in the order in which they are increased while there is time."""


@dataclass(frozen=True, slots=True)
class CertifyTimePlan:
    """Settings that were chosen for a time, and the precision that they give.

    Attributes:
        seconds: the given time.
        deadline: time by ``time.monotonic()`` at which sampling ends.
        chosen: "n" and "samples", unless the user has given them.
        longest: longest time of all samples in seconds, at the measured speed.
        widths: width of the 95 % interval in points, if no image is certified and if half of them are.
        reach: for each noise level, the radius of an image all of whose samples have the same class.
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
    """Choose n and samples, unless they are given, so that the run ends in time even if every image needs all samples.

    Args:
        settings: settings of the user.
        available: number of images of the data set.
        samples_per_second: measured speed.
        seconds: the whole time.
        left: the part of it that is left for samples.

    Raises:
        UsageError: even the fewest images and samples take longer.
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
    """The fewest samples that can decide each radius that the default number of samples can decide."""
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
    """Seconds of all samples, if each image needs the largest number."""
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
    """The plan of the chosen settings, with n images."""
    samples = chosen.get("samples", settings.bound_samples)
    if settings.procedure == "sequential":
        reach = [(sigma, reachable_radius(samples, settings.alpha, sigma)) for sigma in settings.sigma]
    else:
        lower = clopper_pearson_lower(samples, samples, settings.alpha)
        reach = [(sigma, certified_radius(lower, sigma)) for sigma in settings.sigma]
    most = longest(settings, chosen, n, samples_per_second)
    return CertifyTimePlan(seconds, deadline, chosen, most, widths(n), tuple(reach))


def text_of(settings: CertifySettings, chosen: Mapping[str, int], available: int) -> str:
    """The plan as text: "100 images with 500 samples each"."""
    n, samples = chosen.get("n", settings.n or available), chosen.get("samples", settings.bound_samples)
    levels = f" for each of {len(settings.sigma)} noise levels" if len(settings.sigma) > 1 else ""
    most = "at most " if settings.procedure == "sequential" else ""
    return f"{n} image{'s' * (n != 1)} with {most}{samples:,} samples each{levels}"


def with_chosen(settings: CertifySettings, chosen: Mapping[str, int]) -> CertifySettings:
    """The settings of the user with the choices for the time."""
    options: dict[str, Any] = dict(chosen)
    return dataclasses.replace(settings, **options)


def recorded_certify_plan(folder: Path, seconds: float) -> dict[str, int] | None:
    """The settings that an earlier run with the same time has chosen in a folder; None if there are none.

    Raises:
        UsageError: it had another time.
    """
    if not (folder / CERTIFY_FILE).exists():
        return None
    return chosen_before(read_certify(folder).provenance, folder, seconds)
