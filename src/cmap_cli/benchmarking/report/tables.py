"""The tables of a report as values, for the templates of Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cmap_cli.benchmarking.report.access import access_levels
from cmap_cli.benchmarking.report.cascade import cascade_note, vote_cell
from cmap_cli.benchmarking.report.records import NOISE
from cmap_cli.benchmarking.report.statistics import Accuracy, Rate
from cmap_cli.benchmarking.report.values import (
    AttackCost,
    AttackRow,
    ClassResult,
    DefenseResult,
    Headline,
    Report,
    ThreatResult,
)
from cmap_cli.benchmarking.report.words import counted, interval, percent

Cell = str | Rate | None
FAILURE_ROWS = 100
FEW = 10  # images of a class: below it a row of its own says nothing


@dataclass(frozen=True, slots=True)
class TableRow:
    """The cells of a row, the first of which names it; ``strong`` if the row is emphasised."""

    cells: tuple[Cell, ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A title, the names of the columns, the rows, and a sentence below the table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    note: str = ""


def cell_text(cell: Cell) -> str:
    """A cell as text: a rate with its interval and counts."""
    if isinstance(cell, Rate):
        return f"{percent(cell.value)} ({interval(cell)}; {cell.right}/{cell.n})"
    return "–" if cell is None else cell


def vote(accuracy: Accuracy | None) -> Rate | None:
    """The vote's rate."""
    return accuracy.vote if accuracy else None


def number(value: float | None, digits: int = 3) -> str | None:
    """A number without needless zeros, thousands set apart."""
    return None if value is None else f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"


def summary_table(headline: Headline) -> ReportTable:
    """The four numbers beside the headline."""
    clean = vote(headline.clean)
    return ReportTable(
        "Summary",
        ("", "clean", "attacked"),
        (
            TableRow(("undefended", headline.undefended_clean, headline.undefended_attacked)),
            TableRow((headline.defense, clean, headline.accuracy.vote), strong=True),
        ),
    )


def defense_table(report: Report) -> ReportTable:
    """Comparison of the defences: the worst case in every ball, the largest first, and clean."""
    balls = report.balls()[::-1]
    undefended = {(threat.norm, threat.eps): threat.undefended for one in report.defenses for threat in one.threats}
    rows = [TableRow(("undefended", *(undefended.get(ball) for ball in balls), report.undefended_clean))]
    for one in report.defenses:
        worst = {(threat.norm, threat.eps): vote(threat.worst_case) for threat in one.threats}
        strong = report.headline is not None and one.defense == report.headline.defense
        if one.defense != "none":
            rows.append(TableRow((one.defense, *(worst.get(ball) for ball in balls), vote(one.clean)), strong))
    return ReportTable(
        "Defences side by side",
        ("Defence", *(f"{norm} {eps}" for norm, eps in balls), "Clean"),
        tuple(rows),
        "Attacked images in the worst case: an image counts only if it is recognised under every attack. The vote over "
        "the draws decides, a tie is wrong. Undefended: under attacks made on the bare classifier.",
    )


def draws_table(report: Report) -> ReportTable:
    """Vote, average and worst of N of every defence, under attack and on clean images."""
    rows = []
    for one in report.defenses:
        found = [("clean", one.clean)]
        found += [(f"{threat.norm} {threat.eps}", threat.worst_case) for threat in one.threats]
        for name, accuracy in found:
            if accuracy:
                draws = ", ".join(map(str, accuracy.draws))
                average = percent(accuracy.average)
                rows.append(TableRow((f"{one.defense}, {name}", accuracy.vote, average, accuracy.worst_of_n, draws)))
    return ReportTable(
        "By vote, on average, and in every draw",
        ("Defence and images", "Vote", "Average", "Right in every draw", "Draws"),
        tuple(rows),
        "Each image is classified again with fresh latents as often as the draws say. Average: over draws and images, "
        "in the worst case of the smallest average of each image.",
    )


def attack_table(report: Report, norm: str, eps: str) -> ReportTable:
    """{defended, undefended} × {clean, attacked} within a ball, one row per attack, one column per defence."""
    within = [
        (one, threat)
        for one in report.defenses
        for threat in one.threats
        if (threat.norm, threat.eps) == (norm, eps) and threat.attacks
    ]
    shown = [pair for pair in within if pair[0].defense != "none"] or within
    found = {(one.attack, one.access): one for _, threat in reversed(within) for one in reversed(threat.attacks)}
    names = list(dict.fromkeys((one.attack, one.access) for _, threat in within for one in threat.attacks))
    by_defense = [{(one.attack, one.access): vote_cell(one) for one in threat.attacks} for _, threat in shown]
    rows = [TableRow(("clean", *(vote(one.clean) for one, _ in shown), report.undefended_clean, ""))]
    for name in names:
        one = found[name]
        through = "yes" if one.through_defense else "no"
        rates = (row.get(name) for row in by_defense)
        rows.append(TableRow((f"{one.attack}@{one.access}", *rates, one.undefended, through)))
    undefended = next((threat.undefended for _, threat in within), None)
    rows.append(TableRow(("worst case", *(vote(threat.worst_case) for _, threat in shown), undefended, ""), True))
    return ReportTable(
        f"Attacks within {norm} {eps}",
        ("Attack@access", *(one.defense for one, _ in shown), "Undefended", "Through the defence"),
        tuple(rows),
        "Undefended: the bare classifier on the images of the same attack made by transfer, or with no defence in "
        "front; its worst case is over all of these. Defended: vote over the draws."
        + cascade_note(threat for _, threat in within),
    )


def detail_table(defense: DefenseResult, threat: ThreatResult, attacks: Iterable[AttackRow], title: str) -> ReportTable:
    """All measurements of the attacks on one defence."""
    return ReportTable(
        f"{title}: {defense.defense}, {threat.norm} {threat.eps}",
        (
            "Attack",
            "Vote",
            "Average",
            "Right in every draw",
            "Draws",
            "Claimed by the attack",
            "Unchanged images",
            "Largest distance",
            "Zero gradients",
            "Not finite",
            "Cosine over seeds",
        ),
        tuple(TableRow(detail_cells(one, threat)) for one in attacks),
        "Claimed: images that the attack reports as misclassified, by its own draws. Unchanged: where an attack "
        "failed, the clean image comes back; it is scored as it is, and so marked. Distances are measured on images "
        f"as written; eps is {number(threat.eps_value, 5)}.{cascade_note([threat])}",
    )


def detail_cells(one: AttackRow, threat: ThreatResult) -> tuple[Cell, ...]:
    """The cells of an attack."""
    n, found = one.run_on, one.defended
    distance = number(one.max_distance, 5) or ("not finite" if n else "–")
    gradient = one.gradient
    return (
        f"{one.attack}@{one.access}",
        vote_cell(one),
        percent(found.average) if found and not one.skipped else None,
        percent(found.worst_of_n.value) if found and not one.skipped else None,
        ", ".join(map(str, found.draws)) if found else None,
        f"{one.reported_success} of {n}",
        f"{one.unchanged} of {n}",
        distance if one.within_eps else f"{distance}, outside the ball",
        percent(gradient.zero) if gradient and gradient.zero is not None else None,
        str(gradient.not_finite) if gradient else None,
        number(gradient.cosine, 2) if gradient else None,
    )


def control_table(defense: DefenseResult) -> ReportTable:
    """The controls of a defence in all balls, with the expected result of each."""
    rows = [
        TableRow(
            (
                f"{one.attack}@{one.access}",
                vote(one.defended),
                f"{threat.norm} {threat.eps}",
                one.undefended,
                expected(one, threat),
            )
        )
        for threat in defense.threats
        for one in threat.controls
    ]
    columns = ("Control", "Defended", "Ball", "Undefended", "Expected")
    return ReportTable(f"Controls: {defense.defense}", columns, tuple(rows))


def expected(one: AttackRow, threat: ThreatResult) -> str:
    """The result of a control that is expected if the attacks work."""
    if one.attack == NOISE:
        return "no lower than under any attack"
    if one.attack == "fgsm":
        return "no lower than under PGD with the same access"
    return "no more than chance" if not threat.attacks else "no lower than under the attacks"


def class_table(defense: DefenseResult, threat: ThreatResult) -> ReportTable:
    """The worst case by class."""
    return class_rows(f"By class: {defense.defense}, {threat.norm} {threat.eps}", threat.classes)


def split_class_tables(defense: DefenseResult, threat: ThreatResult) -> tuple[ReportTable, ReportTable]:
    """The worst case by class: the classes with enough images for an estimate, and the others."""
    ball = f"{defense.defense}, {threat.norm} {threat.eps}"
    large = [one for one in threat.classes if one.n >= FEW]
    small = [one for one in threat.classes if one.n < FEW]
    few = f"{counted(len(small), 'class', 'classes')} with fewer than ten images: {ball}"
    return class_rows(f"By class: {ball}", large), class_rows(few, small)


def class_rows(title: str, classes: Iterable[ClassResult]) -> ReportTable:
    """One row per class."""
    return ReportTable(
        title,
        ("Class", "Defended, attacked", "Defended, clean", "Undefended, attacked", "Undefended, clean", "Images"),
        tuple(
            TableRow(
                (
                    one.name,
                    one.defended_attacked,
                    one.defended_clean,
                    one.undefended_attacked,
                    one.undefended_clean,
                    str(one.n),
                )
            )
            for one in classes
        ),
        "Attacked: worst case over the attacks. With few images per class the intervals are wide.",
    )


def failure_table(report: Report, defense: DefenseResult, threat: ThreatResult) -> ReportTable:
    """The images on which the defence failed."""
    rows = []
    for failure in threat.failures[:FAILURE_ROWS]:
        under = ", ".join(f"{one.attack}@{one.access} → {report.class_name(one.prediction)}" for one in failure.under)
        clean = {True: "right", False: "wrong already", None: "not evaluated"}[failure.right_clean]
        rows.append(TableRow((failure.key, report.class_name(failure.label), under, clean)))
    more = len(threat.failures) - len(rows)
    return ReportTable(
        f"Failures of {defense.defense}, {threat.norm} {threat.eps}: {len(threat.failures)} images",
        ("Image", "True class", "Wrong under", "Defended, clean"),
        tuple(rows),
        f"{more} more are in report.json." if more else "",
    )


def cost_table(report: Report) -> ReportTable:
    """The cost of the attacks."""
    rows = [
        TableRow(
            (f"{attack.attack}@{attack.access}", one.defense, f"{threat.norm} {threat.eps}", *cost_cells(attack.cost))
        )
        for one in report.defenses
        for threat in one.threats
        for attack in (*threat.attacks, *threat.controls)
    ]
    rows.append(TableRow(("all", "", "", *cost_cells(report.cost)), True))
    return ReportTable(
        "Cost",
        ("Attack", "Defence", "Ball", "Seconds", "Forward passes", "Backward passes"),
        tuple(rows),
        "Passes are of the whole attacked model, summed over images. Transfer and surrogate attacks are made once for "
        "all defences and counted once in the sum.",
    )


def cost_cells(cost: AttackCost) -> tuple[str | None, ...]:
    """Seconds and passes."""
    return number(cost.seconds, 1), number(cost.forward, 0), number(cost.backward, 0)


def access_table(report: Report) -> ReportTable:
    """The headline's defence and ball by access."""
    rows = [TableRow((level.name, level.rate or level.missing)) for level in access_levels(report)]
    head = report.headline
    title = f"Accuracy by access: {head.defense}, {head.norm} {head.eps}" if head else ""
    return ReportTable(title, ("Access", "Accuracy"), tuple(rows))
