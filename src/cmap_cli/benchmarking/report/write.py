"""The files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.benchmarking.report.build import build_report
from cmap_cli.benchmarking.report.machines import badge, model_card
from cmap_cli.benchmarking.report.markdown import markdown_report
from cmap_cli.benchmarking.report.page import html_report
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.files import write_text

if TYPE_CHECKING:  # what it imports needs torch, a report does not
    from cmap_cli.benchmarking.checks import Flag

REPORT_JSON, REPORT_MARKDOWN, REPORT_HTML = "report.json", "report.md", "report.html"
BADGE_JSON, MODEL_CARD = "badge.json", "model-card.md"


def write_report(folder: Path, flags: Sequence[Flag] = ()) -> Report:
    """Compute the report of a run and write it beside the records.

    Args:
        folder: the output folder of the run.
        flags: checks in addition to those in benchmark.json.

    Raises:
        CmapError: a file is missing, has other contents than expected, or cannot be written.
    """
    report = build_report(folder, flags)
    save_report(folder, report)
    return report


def save_report(folder: Path, report: Report) -> None:
    """Write report.json, report.md, report.html, badge.json and model-card.md.

    Equal reports and pictures give equal bytes.
    """
    text = json.dumps(report.as_json(), indent=2, allow_nan=False)
    write_text(folder / REPORT_JSON, text + "\n")
    write_text(folder / REPORT_MARKDOWN, encodable(markdown_report(report)))
    write_text(folder / REPORT_HTML, encodable(html_report(report, folder)))
    write_text(folder / BADGE_JSON, badge(report))
    write_text(folder / MODEL_CARD, encodable(model_card(report)))


def encodable(text: str) -> str:
    """The text, with "?" for bytes of a file name that are not valid text."""
    return text.encode("utf-8", "replace").decode("utf-8")
