"""Chooses the attacked images to show: first failures of the defence, then a few images that stayed correct."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from cmap_cli.benchmarking.documents import BenchmarkRecord
from cmap_cli.benchmarking.report.records import CLEAN, GatheredRecords, RecordCondition, condition, finite
from cmap_cli.benchmarking.report.statistics import majority
from cmap_cli.benchmarking.report.threats import worst_outcomes
from cmap_cli.benchmarking.report.values import Example
from cmap_cli.runs.journal import read_lines

ROWS, FAILURES = 24, 16


def find_examples(path: Path, gathered: GatheredRecords, conditions: Sequence[RecordCondition]) -> tuple[Example, ...]:
    """Up to 24 images, one attack each; the records are read again, because they contain the names of the files.

    Args:
        path: the records.
        gathered: the same records, read.
        conditions: the attacks on the defence of the headline within its ball.
    """
    wanted = choose(gathered, conditions)
    bare_clean: dict[int, int] = {}
    defended_clean: dict[int, int | None] = {}
    attacked: dict[int, BenchmarkRecord] = {}
    for record in read_lines(path, BenchmarkRecord) if wanted else ():
        image = record.image
        if image not in wanted:
            continue
        one = condition(record)
        if one.attack == CLEAN and one.defense == wanted[image].defense:
            if record.undefended is not None:
                bare_clean[image] = record.undefended
            defended_clean[image] = majority(record.draws)
        elif one == wanted[image]:
            attacked[image] = record
    found = (
        example(attacked[image], bare_clean.get(image), defended_clean.get(image))
        for image in wanted
        if image in attacked
    )
    return tuple(one for one in found if one)


def choose(gathered: GatheredRecords, conditions: Sequence[RecordCondition]) -> dict[int, RecordCondition]:
    """Images and the attack to show each under; the attacks take turns, so that all of them are seen.

    First come images that fail although their clean version is right, then the other failures, then images that are
    right under every attack. An attack that returned the clean image is used only if there is no other attack.
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
        run = [one for one in conditions if image in gathered.observed[one].outcomes]
        broken = [one for one in run if not gathered.observed[one].outcomes[image].voted_right] or run
        changed = [one for one in broken if image not in gathered.observed[one].unchanged] or broken
        chosen[image] = changed[turn % len(changed)]
    return chosen


def example(record: BenchmarkRecord, undefended_clean: int | None, defended_clean: int | None) -> Example | None:
    """The example of a record; None if its pixels were not stored."""
    if record.file is None or record.row is None or record.undefended is None:
        return None
    vote = majority(record.draws)
    return Example(
        image=record.image,
        key=record.key,
        label=record.label,
        attack=record.attack,
        access=record.access or "",
        eps=record.eps or "",
        distance=finite(record.distance),
        unchanged=record.unchanged,
        undefended_clean=undefended_clean,
        defended_clean=defended_clean,
        undefended=record.undefended,
        defended=vote,
        draws=len(record.draws),
        draws_right=sum(draw == record.label for draw in record.draws),
        failed=vote != record.label,
        file=record.file,
        row=record.row,
    )
