"""Results for other programs: a badge for shields.io, a block for a model card."""

from __future__ import annotations

from cmap_cli.benchmarking.report.values import Report
from cmap_cli.runs.documents import encode

BADGE_COLOURS = ((0.7, "brightgreen"), (0.5, "green"), (0.3, "yellow"), (0.1, "orange"), (0.0, "red"))
"""The lowest robust accuracy for each colour."""


def badge(report: Report) -> str:
    """The JSON of a shields.io endpoint badge: robust accuracy with its interval, or that it was not measured."""
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
