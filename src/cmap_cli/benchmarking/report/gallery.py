"""The pictures of a page: clean, adversarial, perturbation, purified, residual, and what was predicted of each."""

from __future__ import annotations

from html import escape
from pathlib import Path

from cmap_cli.benchmarking.report.pictures import GAIN, RESIDUAL_GAIN, Pictures, read_pictures
from cmap_cli.benchmarking.report.values import Example, Report


def gallery(report: Report, folder: Path) -> str:
    """The examples whose pixels are there; empty if none are."""
    shown = [(one, read_pictures(folder, one)) for one in report.examples]
    rows = "".join(row(report, one, pictures) for one, pictures in shown if pictures)
    if not rows or report.headline is None:
        return ""
    missing = sum(pictures is None for _, pictures in shown)
    left_out = f" {missing} more are left out: their pixels are not in the folder." if missing else ""
    head = report.headline
    defense, ball = escape(head.defense), escape(f"{head.norm} {head.eps}")
    return (
        f"<p>Attacks within {ball}; images on which {defense} failed come first. Under an image: what the bare "
        f"classifier and the vote behind {defense} take it for. The perturbation is what the attack added ({GAIN} "
        f"times enlarged), the residual what the purified image differs in from the clean one ({RESIDUAL_GAIN} times); "
        f"grey is no difference.{left_out}</p>\n"
        f'<ol class="examples">\n{rows}</ol>\n'
    )


def row(report: Report, one: Example, pictures: Pictures) -> str:
    """An image under one attack."""
    label, defense = report.class_name(one.label), report.headline.defense if report.headline else ""
    state = '<span class="failed">failed</span>' if one.failed else '<span class="held">held</span>'
    attack = escape(f"{one.attack}@{one.access}" + (" (unchanged: the attack failed)" if one.unchanged else ""))
    of = f"of {one.key}, true class {label}"
    votes = f"{one.draws_right} of {one.draws} draws right"
    figures = (
        figure(
            "clean",
            pictures.clean,
            f"clean image {of}",
            guess(report, one, one.undefended_clean, "bare") + guess(report, one, one.defended_clean, defense),
        ),
        figure(
            "adversarial", pictures.adversarial, f"adversarial image {of}", guess(report, one, one.undefended, "bare")
        ),
        figure(f"perturbation ×{GAIN}", pictures.perturbation, f"perturbation {of}", ""),
        figure(
            "purified",
            pictures.purified,
            f"purified image {of}",
            guess(report, one, one.defended, defense) + f"<span>{votes}</span>",
        ),
        figure(f"residual ×{RESIDUAL_GAIN}", pictures.residual, f"residual {of}", ""),
    )
    return (
        f"<li><h3>{escape(label)} <span>{state} under {attack}, {escape(one.key)}</span></h3>"
        f'<div class="strip">{"".join(figures)}</div></li>\n'
    )


def figure(name: str, picture: str | None, described: str, guesses: str) -> str:
    """A picture with its name and what it is taken for."""
    if picture is None:
        image = '<div class="none"></div>'
        guesses += "<span>not kept</span>"
    else:
        image = f'<img src="{picture}" alt="{escape(described)}">'
    return f"<figure>{image}<figcaption><b>{escape(name)}</b>{guesses}</figcaption></figure>"


def guess(report: Report, one: Example, prediction: int | None, who: str) -> str:
    """A prediction, marked right or wrong in words that screen readers say and a sign that others see.

    A clean image that was not evaluated has none; a vote that ended in a tie says so.
    """
    right = prediction == one.label
    style, sign = ("right", "✓") if right else ("wrong", "✗")
    return (
        f'<span>{escape(who)} <span class="{style}"><span aria-hidden="true">{sign}</span>'
        f'<span class="hidden">{style}:</span> {escape(report.class_name(prediction))}</span></span>'
    )
