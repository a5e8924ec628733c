"""What ``cmap list`` says of each name."""

from __future__ import annotations

import pytest

from cmap_cli.cli.listing import weight_rows


@pytest.mark.parametrize(
    ("what", "defaults"),
    [
        (
            "models",
            {
                "cifar10-unet": "the default for pictures of 32×32 pixels",
                "photo-unet": "the default for all other pictures",
            },
        ),
        ("classifiers", {"pyautoattack-resnet18": "the default"}),
    ],
)
def test_defaults_come_first_and_say_what_for(what: str, defaults: dict[str, str]) -> None:
    rows = weight_rows(what, None)
    said = {name: about.rpartition("; ")[2] for name, about in rows if "default" in about}
    assert said == defaults
    assert {name for name, _ in rows[: len(defaults)]} == set(defaults)
