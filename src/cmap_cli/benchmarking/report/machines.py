"""A report for other programs: JUnit XML for CI, a badge of shields.io, a block for a model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Report, ThreatResult
from cmap_cli.runs.documents import encode

BADGE_COLOURS = ((0.7, "brightgreen"), (0.5, "green"), (0.3, "yellow"), (0.1, "orange"), (0.0, "red"))
"""Lowest robust accuracy of each colour."""


def junit(report: Report, failures: Sequence[str]) -> str:
    """JUnit XML: a suite for each defence, a case for each attack, access and eps; a suite of checks and of conditions.

    Args:
        report: of a run.
        failures: conditions of the user that are not met, a sentence each; each is a failed case.
    """
    root = ElementTree.Element("testsuites", name="cmap benchmark")
    for one in report.defenses:
        suite = ElementTree.SubElement(root, "testsuite", name=f"cmap.{one.defense}")
        for name, text, seconds in measured_cases(one):
            case = ElementTree.SubElement(suite, "testcase", classname=f"cmap.{one.defense}", name=name)
            case.set("time", f"{seconds:.3f}")
            ElementTree.SubElement(case, "system-out").text = text
    checks = ElementTree.SubElement(root, "testsuite", name="cmap.checks")
    for flag in report.flags:
        name = flag.name if flag.attack is None else f"{flag.name} ({flag.attack})"
        case = ElementTree.SubElement(checks, "testcase", classname="cmap.checks", name=name)
        if not flag.checked:
            ElementTree.SubElement(case, "skipped", message="the run lacks what this check needs")
        ElementTree.SubElement(case, "system-out").text = f"{flag.state}: {flag.what}"
    conditions = ElementTree.SubElement(root, "testsuite", name="cmap.conditions")
    for text in failures or ("all conditions are met",):
        case = ElementTree.SubElement(conditions, "testcase", classname="cmap.conditions", name=text)
        if failures:
            ElementTree.SubElement(case, "failure", message=text, type="threshold").text = text
    for suite in root:
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in suite)))
        suite.set("skipped", str(sum(case.find("skipped") is not None for case in suite)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def measured_cases(one: DefenseResult) -> Iterator[tuple[str, str, float]]:
    """Name, figures and seconds of everything measured on a defence."""
    if one.clean is not None:
        yield "clean", figures(one.clean.vote), 0.0
    for threat in one.threats:
        for row in threat.attacks:
            yield case_name(row, threat), row_figures(row), row.cost.seconds
        if threat.worst_case is not None:
            yield f"worst case, {threat.norm} {threat.eps}", figures(threat.worst_case.vote), 0.0


def row_figures(row: AttackRow) -> str:
    """The figures of an attack; of one that skipped images only the counts, which are no accuracy."""
    if not row.skipped:
        return figures(row.defended.vote) if row.defended else "not run"
    right = row.defended.vote.right if row.defended else 0
    return f"{right} of {row.run_on} correct; not run on {len(row.skipped)} images that an earlier attack had broken"


def case_name(row: AttackRow, threat: ThreatResult) -> str:
    """As in pgd@white-box, Linf 8/255."""
    return f"{row.attack}@{row.access}, {threat.norm} {threat.eps}"


def figures(rate: Rate) -> str:
    """The accuracy with its interval and n."""
    interval = f"95 % interval {rate.low:.3f} to {rate.high:.3f}"
    return f"accuracy {rate.value:.3f}, {interval}, n = {rate.n} ({rate.right} correct)"


def badge(report: Report) -> str:
    """The JSON of a shields.io endpoint badge: robust accuracy with its interval, or that there is none."""
    headline = report.headline
    message, colour = "not measured", "lightgrey"
    if headline is not None and headline.through_defense and report.complete:
        rate = headline.accuracy.vote
        ball = f"{headline.norm} {headline.eps}"
        message = f"{100 * rate.value:.0f} % ({100 * rate.low:.0f} to {100 * rate.high:.0f}) at {ball}, n = {rate.n}"
        colour = next(name for least, name in BADGE_COLOURS if rate.value >= least)
    document = {"schemaVersion": 1, "label": "robust accuracy", "message": message, "color": colour}
    return encode(document) + "\n"


def model_card(report: Report) -> str:
    """The block ``model-index`` of a Hugging Face model card, as YAML between dashes, which JSON strings are."""
    entries = [
        (f"{one.defense}, {name}", rate)
        for one in report.defenses
        for name, rate in [
            *([("clean", one.clean.vote)] if one.clean else []),
            *((f"worst case, {each.norm} {each.eps}", each.worst_case.vote) for each in one.threats if each.worst_case),
        ]
    ]
    lines = ["---", "model-index:", f"- name: {encode(str(report.settings.get('classifier', '')))}", "  results:"]
    lines += ["  - task: {type: image-classification}"]
    lines += [f"    dataset: {{name: {encode(str(report.settings.get('dataset', '')))}, type: image-classification}}"]
    lines += ["    metrics:"]
    for name, rate in entries:
        lines.append(f"    - {{type: accuracy, name: {encode(name)}, value: {rate.value:.4f}}}")
    return "\n".join([*lines, "---", ""])
