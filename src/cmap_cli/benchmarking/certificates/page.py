"""The pages of a report of ``cmap certify``: report.html and report.md, from templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from cmap_cli.benchmarking.certificates.documents import CertificateReport, SigmaResult
from cmap_cli.benchmarking.certificates.references import NOTE, Reference, references
from cmap_cli.benchmarking.report.charts import Place
from cmap_cli.benchmarking.report.markdown import squeezed
from cmap_cli.benchmarking.report.settings import values_table
from cmap_cli.benchmarking.report.statistics import Rate
from cmap_cli.benchmarking.report.tables import ReportTable, TableRow
from cmap_cli.benchmarking.report.templates import render
from cmap_cli.benchmarking.report.words import percent

LOOKS = 7
MOST_TICKS = 8
REFERENCE_LOOK = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of a noise level: corners of its steps in the unit square, y downwards, and marks at given radii."""

    name: str
    look: int
    steps: tuple[Place, ...]
    marks: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class CertificateChart:
    """Certified accuracy against radius; the description is the text for screen readers."""

    curves: tuple[Curve, ...]
    references: tuple[tuple[Reference, Place], ...]
    ticks: tuple[tuple[float, str], ...]
    description: str


def html_page(report: CertificateReport) -> str:
    """The whole page."""
    style = (files("cmap_cli") / "assets" / "report" / "page.css").read_text(encoding="utf-8")
    return render(
        "certificate.html.j2", style=Markup(style), chart=chart(report), look=REFERENCE_LOOK, **values(report)
    )


def markdown_page(report: CertificateReport) -> str:
    """The whole report as GitHub Markdown."""
    return squeezed(render("certificate.md.j2", **values(report))) + "\n"


def values(report: CertificateReport) -> dict[str, Any]:
    """The values that both templates show."""
    settings = report.settings
    meta = {name: settings[name] for name in ("classifier", "model", "denoiser", "procedure", "alpha", "precision")
            if name in settings}  # fmt: skip
    return {
        "report": report,
        "name": f"Certified accuracy on {settings['n']} images of {settings['dataset']}",
        "meta": list(meta.items()),
        "tables": [accuracy_table(report), bound_table(report), sample_table(report)],
        "published": [reference_table(settings["dataset"]), *([other_table(report)] if report.others else [])],
        "provenance": values_table("Provenance", report.provenance),
        "settings": values_table("Settings", settings),
    }


def radius_names(report: CertificateReport) -> tuple[str, ...]:
    """The columns of the radii."""
    return tuple(f"ℓ2 {radius:g}" for radius in report.settings["radius"])


def accuracy_table(report: CertificateReport) -> ReportTable:
    """Certified accuracy by noise level and radius."""
    rows = []
    for one in report.results:
        cells = [
            Rate(each.certified.count, each.certified.n, each.certified.value, each.certified.low, each.certified.high)
            if one.images
            else None
            for each in one.radii
        ]
        rows.append(TableRow((f"sigma {one.sigma:g}", *cells)))
    note = "Images that are classified correctly and whose certificate covers the radius, with Wilson 95 % intervals."
    return ReportTable("Certified accuracy", ("Noise", *radius_names(report)), tuple(rows), note)


def bound_table(report: CertificateReport) -> ReportTable:
    """The bound for the whole set, and the ℓ∞ change that each radius covers."""
    rows = [
        TableRow((f"sigma {one.sigma:g}", *(percent(each.set_low) for each in one.radii))) for one in report.results
    ]
    linf = [each.linf for each in report.results[0].radii]
    rows.append(TableRow(("ℓ∞ that is inside", *("–" if each is None else f"{each:.2f}/255" for each in linf))))
    note = (
        f"At least this share of these images is classified correctly and robustly, with probability "
        f"{report.confidence:g}: wrong certificates among all are allowed for (binomial)."
    )
    return ReportTable("Bounds for the whole set", ("Noise", *radius_names(report)), tuple(rows), note)


def sample_table(report: CertificateReport) -> ReportTable:
    """Abstentions, wrong classes, samples and time."""
    rows = [
        TableRow((
            f"sigma {one.sigma:g}", str(one.images), str(one.abstained), str(one.wrong),
            ", ".join(str(each.undecided) for each in one.radii), f"{one.mean_samples:,.0f}", f"{one.seconds:.2f}",
        ))
        for one in report.results
    ]  # fmt: skip
    columns = ("Noise", "Images", "Abstained", "Wrong class", "Undecided at each radius", "Samples", "Seconds")
    note = "Samples and seconds are means per image. Undecided images count as not certified."
    return ReportTable("Abstentions and cost", columns, tuple(rows), note)


def reference_table(dataset: str) -> ReportTable:
    """Published figures."""
    rows = tuple(
        TableRow((each.name, f"ℓ2 {each.radius:g}", percent(each.value), each.source)) for each in references(dataset)
    )
    return ReportTable("Published figures", ("Defence", "Radius", "Certified accuracy", "Source"), rows, NOTE)


def other_table(report: CertificateReport) -> ReportTable:
    """Certificates of other programs."""
    rows = tuple(
        TableRow((each.name, str(each.images), *(percent(share) for share in each.shares))) for each in report.others
    )
    note = "Computed from the files that were given with --reference; on their images, which may be others."
    return ReportTable("Certificates of other programs", ("Name", "Images", *radius_names(report)), rows, note)


def chart(report: CertificateReport) -> CertificateChart:
    """The curves of all noise levels; the axis ends after the last step."""
    quoted = references(report.settings["dataset"])
    steps = [*(one.curve for one in report.results), *(each.curve for each in report.others)]
    ends = [radius for each in steps for radius, _ in each]
    largest = max([*ends, *report.settings["radius"], *(each.radius for each in quoted), 0.05]) * 1.02
    curves = [curve(one, number, largest) for number, one in enumerate(report.results)]
    curves += [
        Curve(each.name, look_of(number), corners_of(each.curve, largest), ())
        for number, each in enumerate(report.others, len(curves))
    ]
    asked = [radius for radius in report.settings["radius"] if radius]
    beyond = [half / 2 for half in range(1, int(2 * largest) + 1) if half / 2 > max(asked, default=0)]
    ticks = [(0.0, "0"), *((radius / largest, f"{radius:g}") for radius in (*asked, *beyond[:MOST_TICKS]))]
    described = "; ".join(
        f"sigma {one.sigma:g} " + ", ".join(f"{percent(each.certified.value)} at {each.radius:g}" for each in one.radii)
        for one in report.results
    )
    marks = tuple((each, (each.radius / largest, 1 - each.value)) for each in quoted)
    return CertificateChart(tuple(curves), marks, tuple(ticks), f"Certified accuracy against ℓ2 radius: {described}")


def curve(one: SigmaResult, number: int, largest: float) -> Curve:
    """The curve of one noise level; the number of the level determines its style."""
    marks = tuple((each.radius / largest, 1 - each.certified.value) for each in one.radii if one.images)
    return Curve(f"sigma {one.sigma:g}", look_of(number), corners_of(one.curve, largest), marks)


def look_of(number: int) -> int:
    """The style number of a curve, without the style that published figures use."""
    return (look := number % LOOKS) + (look >= REFERENCE_LOOK)


def corners_of(steps: Sequence[tuple[float, float]], largest: float) -> tuple[Place, ...]:
    """The corners of a curve that falls in steps."""
    corners: list[Place] = []
    height = steps[0][1]
    for radius, value in steps:
        corners += [(radius / largest, 1 - height), (radius / largest, 1 - value)]
        height = value
    return tuple(corners)
