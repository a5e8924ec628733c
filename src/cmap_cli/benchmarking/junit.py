"""A report as JUnit XML, for CI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.values import AttackRow, DefenseResult, Report, ThreatResult
from cmap_cli.benchmarking.thresholds import Gate, missed_by, missed_clean


@dataclass(frozen=True, slots=True)
class Case:
    """A test case: one accuracy of a defence.

    Attributes:
        name: name such as "pgd@white-box, Linf 8/255".
        text: the accuracy with its interval and n.
        seconds: time of the attack.
        missed: thresholds that the accuracy misses, a sentence each.
    """

    name: str
    text: str
    seconds: float = 0.0
    missed: Sequence[str] = ()


def junit(report: Report, failures: Sequence[str], gate: Gate) -> str:
    """JUnit XML: a suite per defence with a case per attack, access and eps; suites of the checks and the conditions.

    A threshold that is missed is a failure of the condition, and of each case whose own figure is below it.

    Args:
        report: report of a run.
        failures: conditions of the user that are not met, a sentence each; each is a failed case.
        gate: the conditions of the user.
    """
    root = ElementTree.Element("testsuites", name="cmap benchmark")
    for one in report.defenses:
        suite = ElementTree.SubElement(root, "testsuite", name=f"cmap.{one.defense}")
        for each in measured_cases(report, one, gate):
            case = ElementTree.SubElement(suite, "testcase", classname=f"cmap.{one.defense}", name=each.name)
            case.set("time", f"{each.seconds:.3f}")
            add_failures(case, each.missed)
            ElementTree.SubElement(case, "system-out").text = each.text
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
        add_failures(case, [text] if failures else [])
    for suite in root:
        suite.set("tests", str(len(suite)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in suite)))
        suite.set("skipped", str(sum(case.find("skipped") is not None for case in suite)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def add_failures(case: ElementTree.Element, sentences: Sequence[str]) -> None:
    """Mark a case as failed if there are reasons; all in one element, because some readers accept only one."""
    if sentences:
        text = "\n".join(sentences)
        ElementTree.SubElement(case, "failure", message="; ".join(sentences), type="threshold").text = text


def measured_cases(report: Report, one: DefenseResult, gate: Gate) -> Iterator[Case]:
    """One case per accuracy of a defence."""
    if one.clean is not None:
        yield Case("clean", figures(one.clean.vote), missed=missed_clean(report, gate, one))
    for threat in one.threats:
        for row in threat.attacks:
            missed = missed_by(report, gate, one.defense, threat, row)
            yield Case(case_name(row, threat), row_figures(row), row.cost.seconds, missed)
        if threat.worst_case is not None:
            name, missed = f"worst case, {threat.norm} {threat.eps}", missed_by(report, gate, one.defense, threat, None)
            yield Case(name, figures(threat.worst_case.vote), missed=missed)


def row_figures(row: AttackRow) -> str:
    """The accuracy under an attack; only counts if the attack skipped images, because they are no accuracy."""
    if not row.skipped:
        return figures(row.defended.vote) if row.defended else "not run"
    right = row.defended.vote.right if row.defended else 0
    return f"{right} of {row.run_on} correct; not run on {len(row.skipped)} images that an earlier attack had broken"


def case_name(row: AttackRow, threat: ThreatResult) -> str:
    """The name of a case, such as "pgd@white-box, Linf 8/255"."""
    return f"{row.attack}@{row.access}, {threat.norm} {threat.eps}"


def figures(rate: Rate) -> str:
    """The accuracy with its interval and n."""
    interval = f"95 % interval {rate.low:.3f} to {rate.high:.3f}"
    return f"accuracy {rate.value:.3f}, {interval}, n = {rate.n} ({rate.right} correct)"
