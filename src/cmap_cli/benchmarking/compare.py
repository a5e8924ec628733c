"""Two benchmarks of the same images, compared image by image: the exact McNemar test for every condition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import UNSET, UnsetType

from cmap_cli.benchmarking.paired import count_pairs, difference_interval, holm, mcnemar
from cmap_cli.benchmarking.report.build import build_report
from cmap_cli.benchmarking.report.templates import render
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Report
from cmap_cli.benchmarking.report.write import REPORT_JSON
from cmap_cli.errors import UsageError
from cmap_cli.files import write_text
from cmap_cli.runs.documents import Document, read_document

ALPHA = 0.05
SAME_IMAGES = ("dataset", "split", "n", "indices")
"""Settings that determine which images are used."""
SAME_ATTACKS = ("norm", "budget", "reevaluations", "seed", "protocol")
"""Settings of the attacks: if they differ, a difference in accuracy is not one of the defences."""
WORST_CASE = "worst case"
CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Condition:
    """What an accuracy is measured under: clean images, one attack, or the worst case over the attacks in a ball.

    Attributes:
        defense: name of the defence.
        attack: name of the attack, "clean" or "worst case".
        access: access of the attack.
        norm: norm of the ball.
        eps: radius of the ball, as written by the user.
        of: the attacks that a worst case is taken over.
    """

    defense: str
    attack: str
    access: str | None = None
    norm: str | None = None
    eps: str | None = None
    of: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The condition as text, such as "pgd@white-box, Linf 8/255, cmap"."""
        if self.of:
            return f"{self.attack} of {len(self.of)} attacks, {self.norm} {self.eps}, {self.defense}"
        attack = self.attack if self.access is None else f"{self.attack}@{self.access}"
        ball = "" if self.eps is None else f", {self.norm} {self.eps}"
        return f"{attack}{ball}, {self.defense}"


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One condition in both runs.

    Attributes:
        condition: the condition.
        n: number of images.
        base: number of images that are right in the first run.
        new: number of images that are right in the second run.
        lost: number of images that are right in the first run only.
        gained: number of images that are right in the second run only.
        difference: accuracy of the second run minus that of the first.
        low: lower end of the 95 % interval of the difference.
        high: upper end of this interval.
        p: p value of the two-sided exact McNemar test.
        p_adjusted: the p value adjusted for the number of rows (Holm).
        regression: whether the second run is significantly worse.
        improvement: whether it is significantly better.
    """

    condition: Condition
    n: int
    base: int
    new: int
    lost: int
    gained: int
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    regression: bool
    improvement: bool


class Comparison(Document, frozen=True, kw_only=True):
    """Two runs, condition by condition; what ``cmap compare --json`` prints.

    Attributes:
        exit_code: exit code of ``cmap compare``; absent inside other documents, as is ``failures``.
        failures: why the second run does not pass with --fail-on-regression, a sentence each.
        base: folder or report of the first run.
        new: folder or report of the second run.
        alpha: level of the tests.
        rows: conditions that both runs have.
        only_base: conditions that only the first run has; the comparison does not cover them.
        only_new: conditions that only the second run has.
        problems: why the comparison cannot pass in CI: incomplete runs, missing conditions, other attack budgets.
    """

    schema: str = "cmap.compare/1"
    exit_code: int | UnsetType = UNSET
    failures: tuple[str, ...] | UnsetType = UNSET
    base: str
    new: str
    alpha: float
    rows: tuple[ComparedRow, ...]
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def regressions(self) -> tuple[ComparedRow, ...]:
        """Conditions under which the second run is significantly worse."""
        return tuple(row for row in self.rows if row.regression)


def compare(base: Path, new: Path, *, alpha: float = ALPHA) -> Comparison:
    """Compare two runs on the same images.

    Args:
        base: folder of a run, or its report.json.
        new: folder or report.json of the run that is tested.
        alpha: level of the tests, for all conditions together (Holm).

    Raises:
        UsageError: the runs are not on the same images, or have no condition in common.
        CmapError: a file cannot be read.
    """
    check_alpha(alpha)
    first, second = read_report(base), read_report(new)
    refuse_other_images(base, new, first, second)
    one, two = dict(rights(first)), dict(rights(second))
    one, two = align_defenses(one, two)
    shared = [condition for condition in one if condition in two and len(one[condition]) == len(two[condition])]
    if not any(condition.attack != CLEAN for condition in shared):
        raise UsageError(f"{base} and {new} share no attack on the same images", "run the same attacks on both")
    only_base = tuple(str(condition) for condition in one if condition not in two)
    problems = [f"{place} is not complete" for place, report in ((base, first), (new, second)) if not report.complete]
    problems += [f"{each} is missing in {new}{left_out(second, each)}" for each in one if each not in two]
    problems += [f"{each} has another number of images" for each in one if each in two and each not in shared]
    if changed := [name for name in SAME_ATTACKS if first.settings.get(name) != second.settings.get(name)]:
        problems.append(f"the attacks differ in {', '.join(changed)}")
    return Comparison(
        base=str(base),
        new=str(new),
        alpha=alpha,
        rows=compare_rows({condition: (one[condition], two[condition]) for condition in shared}, alpha),
        only_base=only_base,
        only_new=tuple(str(condition) for condition in two if condition not in one),
        problems=tuple(problems),
    )


def left_out(report: Report, condition: Condition) -> str:
    """Why a run has no result for a condition, if the reason is a cascade."""
    for one in report.defenses:
        for threat in one.threats:
            for row in threat.attacks:
                found = (row.attack, row.access, threat.norm, threat.eps)
                if row.skipped and found == (condition.attack, condition.access, condition.norm, condition.eps):
                    return f": it was not run on {len(row.skipped)} images (--no-cascade runs it on all)"
    return ""


def check_alpha(alpha: float) -> None:
    """Refuse a level of the tests that is not between 0 and 1 (UsageError)."""
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha:g} is not between 0 and 1", "--alpha 0.05")


def refuse_missing(place: Path) -> None:
    """Refuse a report that does not exist (UsageError)."""
    if not place.exists():
        raise UsageError(f"{place} does not exist", "name a folder of cmap benchmark, or its report.json")


def read_report(place: Path) -> Report:
    """The report of a folder, computed from its records, or of a report.json (CmapError if neither can be read)."""
    refuse_missing(place)
    if place.is_dir():
        return build_report(place)
    return read_document(place, Report, UsageError, f"name a folder of cmap benchmark, or its {REPORT_JSON}")


def refuse_other_images(base: Path, new: Path, first: Report, second: Report) -> None:
    """Refuse two runs that are not on the same images (UsageError)."""
    changed = [name for name in SAME_IMAGES if first.settings.get(name) != second.settings.get(name)]
    if changed:
        raise UsageError(
            f"{base} and {new} are not on the same images: they differ in {', '.join(changed)}",
            "a paired comparison needs the same data set, split and --n",
        )


def rights(report: Report) -> Iterator[tuple[Condition, list[bool]]]:
    """Whether each image is right, for every condition that has results for all images.

    Raises:
        UsageError: the report does not contain which images are wrong.
    """
    for one in report.defenses:
        if one.clean is not None:
            yield Condition(one.defense, CLEAN), right_images(one.clean.vote.n, one.clean.vote.right, one.clean_wrong)
        yield from attacked_rights(one)


def attacked_rights(one: DefenseResult) -> Iterator[tuple[Condition, list[bool]]]:
    """The attacks on a defence, and if there are several, the worst case over them.

    An attack that skipped images, in a cascade, has no accuracy of its own to compare; the worst case does not need it.
    """
    for threat in one.threats:
        found = []
        for row in threat.attacks:
            images = row_rights(row)
            found.append(images)
            if not row.skipped:
                yield Condition(one.defense, row.attack, row.access, threat.norm, threat.eps), images
        if len(found) > 1 and len({len(images) for images in found}) == 1:
            names = tuple(sorted(f"{row.attack}@{row.access}" for row in threat.attacks))
            yield (
                Condition(one.defense, WORST_CASE, None, threat.norm, threat.eps, names),
                [all(images) for images in zip(*found, strict=True)],
            )


def row_rights(row: AttackRow) -> list[bool]:
    """Whether each image is right under an attack and, where this one was not run on it, under the earlier ones."""
    right = row.defended.vote.right if row.defended else 0
    return right_images(row.run_on + len(row.skipped), right, (*row.wrong, *row.skipped))


def right_images(n: int, right: int, wrong: tuple[int, ...]) -> list[bool]:
    """Whether each of n images is right."""
    images = [image not in set(wrong) for image in range(n)]
    if sum(images) != right:
        raise UsageError(
            "a report does not list which images are wrong: an older version wrote it, or the run is not complete",
            "name the folder of the run instead of its report.json",
        )
    return images


def align_defenses(
    one: Mapping[Condition, list[bool]], two: Mapping[Condition, list[bool]]
) -> tuple[dict[Condition, list[bool]], dict[Condition, list[bool]]]:
    """If each run has one defence, compare these two even if their names differ."""
    names, others = {each.defense for each in one}, {each.defense for each in two}
    if len(names) == len(others) == 1 and names != others:
        joint = f"{next(iter(names))} → {next(iter(others))}"
        return {renamed(each, joint): one[each] for each in one}, {renamed(each, joint): two[each] for each in two}
    return dict(one), dict(two)


def renamed(condition: Condition, defense: str) -> Condition:
    """The condition with another name for the defence."""
    return replace(condition, defense=defense)


def compare_rows(found: Mapping[Condition, tuple[list[bool], list[bool]]], alpha: float) -> tuple[ComparedRow, ...]:
    """The rows with their tests, adjusted for the number of tests."""
    pairs = {condition: count_pairs(*each) for condition, each in found.items()}
    p_values = [mcnemar(each.lost, each.gained) for each in pairs.values()]
    rows = []
    for (condition, each), p, adjusted in zip(pairs.items(), p_values, holm(p_values), strict=True):
        low, high = difference_interval(each)
        significant = adjusted < alpha
        rows.append(
            ComparedRow(
                condition=condition,
                n=each.n,
                base=each.both + each.lost,
                new=each.both + each.gained,
                lost=each.lost,
                gained=each.gained,
                difference=each.difference,
                low=low,
                high=high,
                p=p,
                p_adjusted=adjusted,
                regression=significant and each.lost > each.gained,
                improvement=significant and each.gained > each.lost,
            )
        )
    return tuple(rows)


def write_picture(path: Path, comparison: Comparison) -> None:
    """Draw the accuracies of both runs, condition by condition, as an SVG file."""
    write_text(path, render("compare.svg.j2", comparison=comparison))
