"""Images and samples for a given time."""

from __future__ import annotations

import pytest

from cmap_cli.benchmarking.certificates.bounds import reachable_radius
from cmap_cli.benchmarking.certificates.budget import (
    LADDER,
    SLOWER,
    describe_time,
    fewest_samples,
    longest,
    plan_certify_time,
)
from cmap_cli.benchmarking.certificates.settings import CertifySettings
from cmap_cli.errors import UsageError

ONE = CertifySettings(sigma=(0.25,), radius=(0.25,))


@pytest.mark.parametrize("speed", [20.0, 160.0, 5000.0])
@pytest.mark.parametrize("left", [200.0, 1800.0])
@pytest.mark.parametrize("settings", [ONE, CertifySettings(procedure="cohen", sigma=(0.25, 0.5))])
def test_a_plan_ends_in_time_and_uses_it(settings: CertifySettings, speed: float, left: float) -> None:
    try:
        chosen = plan_certify_time(settings, 500, speed, left, left)
    except UsageError:
        assert speed * left < 20_000
        return
    most = SLOWER * longest(settings, chosen, 500, speed)
    assert most <= left
    largest = {"n": 500, "samples": max(value for name, value in LADDER[settings.procedure] if name == "samples")}
    assert (
        chosen == largest
        or SLOWER * longest(settings, {**chosen, "n": chosen["n"] + 1}, 500, speed) > left
        or (chosen["n"] == 500)
    )


def test_more_time_gives_more_images_and_samples() -> None:
    plans = [plan_certify_time(ONE, 500, 160.0, left, left) for left in (60.0, 300.0, 1200.0, 10_000.0)]
    assert plans == sorted(plans, key=lambda each: (each["samples"], each["n"]))
    assert plans[0]["n"] >= 10
    assert plans[-1] == {"n": 500, "samples": 1000}
    widths = [describe_time(ONE, each, each["n"], 160.0, 0.0, 0.0).widths for each in plans]
    assert widths == sorted(widths, reverse=True)


def test_settings_of_the_user_are_not_changed() -> None:
    given = CertifySettings(sigma=(0.25,), radius=(0.25,), n=30)
    assert "n" not in plan_certify_time(given, 30, 160.0, 600.0, 600.0)
    both = CertifySettings(sigma=(0.25,), radius=(0.25,), n=30, samples=300)
    assert plan_certify_time(both, 30, 160.0, 600.0, 600.0) == {}
    with pytest.raises(UsageError, match=r"too short: 30 images with at most 300 samples each take up to 78 s here"):
        plan_certify_time(both, 30, 160.0, 40.0, 30.0)


def test_the_fewest_samples_decide_every_radius_that_the_default_can() -> None:
    assert fewest_samples(ONE) == 200
    far = CertifySettings(sigma=(0.25,), radius=(0.25, 0.55))
    samples = fewest_samples(far)
    assert reachable_radius(samples, 0.001, 0.25) >= 0.55 > reachable_radius(200, 0.001, 0.25)
