"""Which attacked images to show: where the defence failed first, then a few where it held."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cmap_cli.benchmarking.report.records import CLEAN, Gathered, RecordCondition, condition, finite, read_records
from cmap_cli.benchmarking.report.statistics import majority
from cmap_cli.benchmarking.report.threats import worst_outcomes
from cmap_cli.benchmarking.report.values import Example

ROWS, FAILURES = 24, 16


def find_examples(path: Path, gathered: Gathered, conditions: Sequence[RecordCondition]) -> tuple[Example, ...]:
    """Up to 24 images, one attack each; the records are read once more for what they say of the pixels.

    Args:
        path: the records.
        gathered: the same records, read.
        conditions: the attacks on the defence of the headline within its ball.
    """
    wanted = choose(gathered, conditions)
    bare_clean: dict[int, int] = {}
    found: dict[int, dict[str, Any]] = {}
    for record in read_records(path) if wanted else ():
        image = record["image"]
        if image not in wanted:
            continue
        one = condition(record)
        if one.attack == CLEAN and one.defense == wanted[image].defense:
            bare_clean[image] = record["undefended"]
            found.setdefault(image, {})["clean"] = majority(record["draws"])
        elif one == wanted[image]:
            found.setdefault(image, {})["record"] = record
    rows = ((image, found.get(image, {})) for image in wanted)
    return tuple(
        example(one["record"], bare_clean.get(image), one.get("clean"))
        for image, one in rows
        if "record" in one and one["record"]["file"] is not None
    )


def choose(gathered: Gathered, conditions: Sequence[RecordCondition]) -> dict[int, RecordCondition]:
    """Images and the attack to show each under; the attacks take turns, so that all of them are seen.

    First come images that fail although their clean version is recognised, then the other failures, then images that
    held under every attack. An attack that gave the clean image back has little to show and is passed over if another
    did not.
    """
    if not conditions:
        return {}
    attacked = worst_outcomes(gathered, conditions)
    clean = gathered.clean(conditions[0].defense).outcomes

    def recognised(image: int) -> bool:
        return image in clean and clean[image].voted_right

    failed = sorted(
        (image for image in attacked if not attacked[image].voted_right), key=lambda one: not recognised(one)
    )
    held = [image for image in attacked if attacked[image].voted_right]
    failed = failed[: max(FAILURES, ROWS - len(held))]
    chosen = {}
    for turn, image in enumerate(islice([*failed, *held], ROWS)):
        broken = [one for one in conditions if not gathered.observed[one].outcomes[image].voted_right] or conditions
        changed = [one for one in broken if image not in gathered.observed[one].unchanged] or broken
        chosen[image] = changed[turn % len(changed)]
    return chosen


def example(record: dict[str, Any], undefended_clean: int | None, defended_clean: int | None) -> Example:
    """The row of a record."""
    vote = majority(record["draws"])
    return Example(
        image=record["image"],
        key=record["key"],
        label=record["label"],
        attack=record["attack"],
        access=record["access"],
        eps=record["eps"],
        distance=finite(record["distance"]),
        unchanged=record["unchanged"],
        undefended_clean=undefended_clean,
        defended_clean=defended_clean,
        undefended=record["undefended"],
        defended=vote,
        draws=len(record["draws"]),
        draws_right=sum(draw == record["label"] for draw in record["draws"]),
        failed=vote != record["label"],
        file=record["file"],
        row=record["row"],
    )
