"""report.html: one file without scripts or requests, in light and dark, for a phone, a desk and paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from cmap_cli.benchmarking.report.charts import eps_chart, find_series, interval_bar
from cmap_cli.benchmarking.report.gallery import gallery
from cmap_cli.benchmarking.report.markup import details, section, table, values
from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.tables import (
    ReportTable,
    attack_table,
    class_table,
    cost_table,
    defense_table,
    detail_table,
    draws_table,
    failure_table,
)
from cmap_cli.benchmarking.report.values import DefenseResult, Headline, Report, ReportFlag, ThreatResult
from cmap_cli.benchmarking.report.words import described_access, interval, listed, percent, title


def html_report(report: Report, folder: Path) -> str:
    """The whole page.

    Args:
        report: the numbers and words.
        folder: of the run; pictures are read from the files that the records name.
    """
    assets = files("cmap_cli") / "assets" / "report"
    skeleton = Template((assets / "page.html").read_text(encoding="utf-8"))
    limits = "".join(f"<li>{escape(limit)}</li>\n" for limit in report.limits)
    parts = [
        summary(report),
        section("Checks", checks(report)),
        section("Defences side by side", side_by_side(report)),
        section("Accuracy against eps", eps_charts(report)),
        section("Attacks", attacks(report)),
        section("Classes", by_threat(report, class_table)),
        section("Pictures", gallery(report, folder)),
        section("Failures", by_threat(report, partial(failure_table, report))),
        section("What these numbers do not say", f'<ul class="limits">\n{limits}</ul>\n'),
        section("Cost", table(cost_table(report), caption=False)),
        section("Provenance", values(report.provenance)),
        section("Settings", values(report.settings)),
    ]
    return skeleton.substitute(
        title=escape(title(report)),
        meta=meta(report),
        style=(assets / "page.css").read_text(encoding="utf-8"),
        body="".join(parts),
        schema=escape(report.schema),
    )


def meta(report: Report) -> str:
    """What was measured, with what, when."""
    settings, provenance = report.settings, report.provenance
    named = (
        ("classifier", settings.get("classifier")),
        ("model", settings.get("model")),
        ("protocol", settings.get("protocol")),
        ("draws per image", settings.get("reevaluations")),
        ("seed", settings.get("seed")),
        ("cmap", provenance.get("version")),
        ("started", provenance.get("started")),
    )
    return " ".join(f"<span>{escape(f'{name} {value}')}</span>" for name, value in named if value is not None)


def summary(report: Report) -> str:
    """What a person understands in ten seconds."""
    warnings = "".join(f'<p class="warning"><strong>Warning.</strong> {escape(one)}</p>\n' for one in report.warnings)
    number = glance(report.headline, report.settings) if report.headline else ""
    return f'<section class="summary" aria-label="Summary">\n{warnings}{number}</section>\n'


def glance(headline: Headline, settings: Mapping[str, Any]) -> str:
    """The number with its interval, the four numbers beside it, the sentence and the attackers under them."""
    vote, every = headline.accuracy.vote, headline.accuracy.worst_of_n
    value = f"{100 * vote.value:.1f}".removesuffix(".0")
    clean = headline.clean.vote if headline.clean else None
    attackers = "".join(
        f"<dt>{escape(access)}</dt><dd>{escape(described_access(access, settings))}: "
        f"{escape(', '.join(name for name in headline.attacks if name.endswith('@' + access)))}</dd>\n"
        for access in headline.access
    )
    only = "" if headline.through_defense else f" against {listed(headline.access)} attacks only"
    kind = escape(f"Robust accuracy{only}")
    attacks = f"worst of {len(headline.attacks)} attacks" if len(headline.attacks) > 1 else headline.attacks[0]
    return (
        f'<div class="glance"><div><p class="label">{kind}, {escape(headline.norm)} {escape(headline.eps)}, '
        f'{escape(attacks)}</p>\n<p class="number">{value}<small>%</small></p>\n'
        f'<div class="scale">{interval_bar(vote, "bar big")}<p aria-hidden="true"><span>0</span><span>50</span>'
        f"<span>100 %</span></p></div>\n"
        f'<p class="interval">95 % interval {interval(vote)}; {vote.right} of {vote.n} images<br>'
        f"{percent(headline.accuracy.average)} on average over draws; {every.right} of {every.n} right in every "
        "draw</p></div>\n"
        '<table class="four"><caption class="hidden">Accuracy without and with the defence</caption>'
        '<thead><tr><td class="corner"></td><th scope="col">clean</th><th scope="col">attacked</th></tr></thead><tbody>'
        f'<tr><th scope="row">undefended</th>{small(headline.undefended_clean)}'
        f"{small(headline.undefended_attacked)}</tr>"
        f'<tr><th scope="row">{escape(headline.defense)}</th>{small(clean)}{small(vote)}</tr></tbody></table></div>\n'
        f'<p class="sentence">{escape(headline.sentence)}</p>\n'
        f'<h2 class="label">Who attacked</h2>\n<dl class="values">\n{attackers}</dl>\n'
    )


def small(rate: Rate | None) -> str:
    """One of the four numbers."""
    if rate is None:
        return "<td><b>–</b><small>not measured</small></td>"
    return f"<td><b>{percent(rate.value)}</b><small>{interval(rate)}</small></td>"


def checks(report: Report) -> str:
    """The flags: those that fired in full, the silent ones to open."""
    if not report.flags:
        return "<p>No check was made.</p>\n"
    by_state = {
        state: [one for one in report.flags if one.state == state] for state in ("fired", "silent", "not checked")
    }
    counts = ", ".join(f"{len(flags)} {state}" for state, flags in by_state.items() if flags)
    rest = by_state["silent"] + by_state["not checked"]
    return (
        f"<p>{counts}.</p>\n"
        + flag_list(by_state["fired"])
        + details(f"Checks that did not fire: {len(rest)}", flag_list(rest))
    )


def flag_list(flags: list[ReportFlag]) -> str:
    """A list of checks."""
    rows = "".join(
        f'<li class="{one.state}"><p class="state">{one.state.capitalize()}</p>'
        f"<div><p><strong>{escape(one.name)}</strong>{escape(f' ({one.attack})' if one.attack else '')}</p>"
        f'<p class="note">{escape(one.what)}</p></div></li>\n'
        for one in flags
    )
    return f'<ul class="flags">\n{rows}</ul>\n' if rows else ""


def side_by_side(report: Report) -> str:
    """The votes of every defence, and to open what they are in single draws."""
    draws = draws_table(report)
    return table(defense_table(report), caption=False) + details(draws.title, table(draws, caption=False))


def eps_charts(report: Report) -> str:
    """A chart for each norm with two eps or more."""
    charts = []
    for norm in dict.fromkeys(norm for norm, _ in report.balls()):
        if chart := eps_chart(find_series(report, norm), norm):
            caption = f"Accuracy in the worst case over all attacks within {norm} eps; bands are 95 % intervals."
            charts.append(f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>\n")
    return "".join(charts)


def attacks(report: Report) -> str:
    """A table for each ball, the details and controls to open."""
    parts = []
    for norm, eps in report.balls():
        parts.append(table(attack_table(report, norm, eps)))
        for one in report.defenses:
            for threat in one.threats:
                if (threat.norm, threat.eps) == (norm, eps):
                    parts.append(attack_details(one, threat))
    alone = [(one, threat) for one in report.defenses for threat in one.threats if not threat.attacks]
    return "".join((*parts, *(attack_details(one, threat) for one, threat in alone)))


def attack_details(one: DefenseResult, threat: ThreatResult) -> str:
    """All that was measured of the attacks on a defence, and the controls beside them."""
    detail = detail_table(one, threat, threat.attacks, "In detail")
    control = detail_table(one, threat, threat.controls, "Controls, which count in nothing")
    if not detail.rows:
        return details(control.title, table(control, caption=False))
    return details(detail.title, table(detail, caption=False) + table(control))


def by_threat(report: Report, make: Callable[[DefenseResult, ThreatResult], ReportTable]) -> str:
    """The table of the headline's defence and ball in full, the others to open."""
    shown, hidden = [], []
    for one in report.defenses:
        for threat in one.threats:
            made = make(one, threat)
            head = report.headline
            if head and (one.defense, threat.norm, threat.eps) == (head.defense, head.norm, head.eps):
                shown.append(table(made))
            elif made.rows:
                hidden.append(details(made.title, table(made, caption=False)))
    return "".join((*shown, *hidden))
