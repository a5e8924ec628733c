"""Reports of benchmarks: from records.jsonl to report.json, report.md and report.html."""

from cmap_cli.benchmarking.report.build import build_report, with_flags
from cmap_cli.benchmarking.report.values import Report
from cmap_cli.benchmarking.report.write import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, save_report, write_report

__all__ = [
    "REPORT_HTML",
    "REPORT_JSON",
    "REPORT_MARKDOWN",
    "Report",
    "build_report",
    "save_report",
    "with_flags",
    "write_report",
]
