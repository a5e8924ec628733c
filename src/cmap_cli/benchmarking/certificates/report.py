"""The report of ``cmap certify``: computed from the records alone, written as JSON, Markdown, HTML and TSV."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cmap_cli.benchmarking.certificates.bounds import set_lower
from cmap_cli.benchmarking.certificates.documents import (
    CertificateRecord,
    CertificateReport,
    OtherCurve,
    RadiusResult,
    Share,
    SigmaResult,
    read_certify,
)
from cmap_cli.benchmarking.certificates.folder import read_records
from cmap_cli.benchmarking.certificates.page import html_page, markdown_page
from cmap_cli.benchmarking.certificates.tsv import read_tsv, tsv_name, write_tsv
from cmap_cli.benchmarking.report.statistics import wilson_interval
from cmap_cli.benchmarking.report.words import percent
from cmap_cli.benchmarking.report.write import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, encodable
from cmap_cli.files import write_text
from cmap_cli.runs.settings import RECORDS

CONFIDENCE = 0.999
"""Confidence of the bounds for the whole set of images."""


def write_certificate_report(folder: Path, references: Sequence[str] = ()) -> CertificateReport:
    """Compute the report of a run and write it beside the records.

    Args:
        folder: the output folder of the run; its records are in one file.
        references: FILE or NAME=FILE, certificates of other programs to show in the report.

    Raises:
        CmapError: a file is missing, has other contents than expected, or cannot be written.
    """
    records = list(read_records(folder / f"{RECORDS}.jsonl"))
    report = build_certificate_report(folder, records, references)
    for sigma in report.settings["sigma"]:
        write_tsv(folder / tsv_name(sigma), (each for each in records if each.sigma == sigma))
    text = json.dumps(msgspec.to_builtins(report), indent=2, allow_nan=False)
    write_text(folder / REPORT_JSON, text + "\n")
    write_text(folder / REPORT_MARKDOWN, encodable(markdown_page(report)))
    write_text(folder / REPORT_HTML, encodable(html_page(report)))
    return report


def build_certificate_report(
    folder: Path, records: Sequence[CertificateRecord], references: Sequence[str] = ()
) -> CertificateReport:
    """The report of a finished or unfinished run."""
    run = read_certify(folder)
    settings = run.settings
    results = []
    for sigma in settings["sigma"]:
        found = [each for each in records if each.sigma == sigma]
        results.append(sigma_result(found, sigma, settings))
    complete = all(one.images == settings["n"] for one in results)
    return CertificateReport(
        complete=complete,
        sentence=sentence(results),
        confidence=CONFIDENCE,
        results=tuple(results),
        limits=(*([run.provenance["adapted"]] if "adapted" in run.provenance else []), *limits(settings)),
        settings=settings,
        provenance=run.provenance,
        others=tuple(other_curve(each, settings["radius"]) for each in references),
    )


def other_curve(reference: str, radii: Sequence[float]) -> OtherCurve:
    """The certificates in a file, given as FILE or NAME=FILE (UsageError if it lacks Cohen's columns)."""
    name, _, file = reference.rpartition("=")
    path = Path(reference) if Path(reference).exists() else Path(file)
    rows = read_tsv(path)
    right = [row.radius for row in rows if row.correct]
    return OtherCurve(
        name=path.stem if path == Path(reference) else name,
        images=len(rows),
        shares=tuple(sum(each >= radius for each in right) / len(rows) for radius in radii),
        curve=falling_curve(right, len(rows)),
    )


def falling_curve(right: Sequence[float], n: int) -> tuple[tuple[float, float], ...]:
    """Pairs (radius, share of n images certified beyond it), from the radii of the images that are right."""
    curve = [(0.0, len(right) / n if n else 0.0)]
    curve += [(radius, (len(right) - 1 - rank) / n) for rank, radius in enumerate(sorted(right))]
    return tuple(curve)


def share_with_interval(count: int, n: int) -> Share:
    """A share with its Wilson 95 % interval, which is [0, 1] without images."""
    if not n:
        return Share(count=0, n=0, value=0.0, low=0.0, high=1.0)
    low, high = wilson_interval(count, n)
    return Share(count=count, n=n, value=count / n, low=low, high=high)


def sigma_result(records: Sequence[CertificateRecord], sigma: float, settings: dict[str, Any]) -> SigmaResult:
    """The results of one noise level, from its records."""
    n = len(records)
    return SigmaResult(
        sigma=sigma,
        images=n,
        abstained=sum(each.predicted is None for each in records),
        wrong=sum(each.predicted is not None and not each.correct for each in records),
        radii=tuple(radius_result(records, radius, settings) for radius in settings["radius"]),
        curve=falling_curve([each.radius for each in records if each.correct], n),
        mean_samples=sum(each.trials + settings["selection"] for each in records) / n if n else 0.0,
        seconds=sum(each.seconds for each in records) / n if n else 0.0,
    )


def radius_result(records: Sequence[CertificateRecord], radius: float, settings: dict[str, Any]) -> RadiusResult:
    """The results of one noise level for one radius."""
    certified = sum(each.holds_at(radius) for each in records)
    undecided = sum(
        decision.radius == radius and decision.decision in ("undecided", "out of reach")
        for each in records
        for decision in each.decisions
    )
    shape = settings.get("image_shape")
    return RadiusResult(
        radius=radius,
        linf=255 * radius / math.sqrt(math.prod(shape)) if shape else None,
        certified=share_with_interval(certified, len(records)),
        set_low=set_lower(certified, len(records), settings["alpha"], CONFIDENCE) if records else 0.0,
        undecided=undecided,
    )


def sentence(results: Sequence[SigmaResult]) -> str:
    """The best noise level at each radius, in a sentence."""
    parts = []
    for place in range(len(results[0].radii)):
        best = max(results, key=lambda one: (one.radii[place].certified.value, -one.sigma))
        found = best.radii[place]
        where = f"ℓ2 {found.radius:g}" if found.radius else "radius 0"
        parts.append(
            f"{percent(found.certified.value)} at {where} with sigma {best.sigma:g} "
            f"({found.certified.count} of {found.certified.n})"
        )
    return f"Correct, and certified against every attack: {'; '.join(parts)}."


def limits(settings: dict[str, Any]) -> tuple[str, ...]:
    """Sentences about what the numbers do not show."""
    alpha, sigmas = settings["alpha"], len(settings["sigma"])
    shape = settings.get("image_shape")
    of_pixels = ""
    if shape:
        d = math.prod(shape)
        of_pixels = f", {255 * 0.25 / math.sqrt(d):.2f}/255 for ℓ2 0.25 with {d:,} values"
    several = ""
    if sigmas > 1:
        several = f" Of the {sigmas} certificates of an image one is wrong with probability {sigmas * alpha:g} at most."
    return (
        f"Each certificate is wrong with probability {alpha:g} at most, over the noise that was drawn, for all radii "
        f"together.{several} Each bound for the set holds for one radius and one noise level.",
        f"Changes are measured in ℓ2. For a change of every value, radius/√d is certified{of_pixels}.",
        "The certificate is for the smoothed classifier, which predicts the most frequent class of many noisy samples. "
        "A vote over few samples sometimes gives another class.",
        "It covers changed images whose values are multiples of 1/2,088,960, which includes all 8-bit images; other "
        "values are first rounded to such multiples.",
        "The certificates hold for small changes in ℓ2 only, not for rotation, blur, JPEG or other images.",
        "Intervals are Wilson's, for images drawn like these; the bound for the set holds for these images only.",
    )
