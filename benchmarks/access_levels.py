"""Accuracy by what the attacker knows, from finished runs; how much the published protocol over-states it.

    python benchmarks/access_levels.py docs/lab/records/denoise --svg docs/pictures/access.svg
    python benchmarks/access_levels.py docs/lab/records/denoise docs/lab/records/fast

Each folder is a complete run of ``cmap benchmark`` without a cascade (--no-cascade, or one attack of each access); the
tensors of attacked images may be missing. For each run: images that the vote over the re-evaluations classifies
correctly, with Wilson 95 % intervals; and, at each eps, the worst case over transfer and surrogate attacks (the
protocol of the paper) minus that over all attacks, paired, with an interval. With two runs also the second minus the
first under each condition that both have, on the images that both have, with the exact McNemar test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from cmap_cli.benchmarking.compare import CLEAN, WORST_CASE, Condition, rights
from cmap_cli.benchmarking.paired import count_pairs, difference_interval, mcnemar
from cmap_cli.benchmarking.report.build import build_report
from cmap_cli.benchmarking.report.statistics import wilson_interval
from cmap_cli.files import write_text

PUBLISHED = ("transfer", "surrogate")
WORDS = {
    CLEAN: "no attack",
    "transfer": "transfer: attacks the classifier",
    "surrogate": "surrogate: attacks a one-step substitute",
    "bpda": "bpda: the defence, identity backward",
    "white-box": "white-box: the defence, exact gradient",
    "black-box": "black-box: scores of the defence",
}
WIDTH, LEFT, ROW, SCALE = 760, 290, 26, 4.0
STYLE = """
svg { --ink: #1f2328; --faint: #d0d7de; --a: #0550ae; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --faint: #3d444d; --a: #79c0ff; } }
text { fill: var(--ink); } .rule { stroke: var(--faint); } .span { stroke: var(--a); stroke-width: 2; }
.dot { fill: var(--a); } .head { font-weight: 600; } .small { font-size: 11px; }
"""

Results = Mapping[Condition, list[bool]]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
parser.add_argument("--svg", type=Path, metavar="FILE", help="picture of the first run")


def interval(right: list[bool]) -> str:
    """As in 2 of 64 (1 to 11 %)."""
    low, high = wilson_interval(sum(right), len(right))
    return f"{sum(right)} of {len(right)} ({100 * low:.0f} to {100 * high:.0f} %)"


def paired(first: list[bool], second: list[bool]) -> str:
    """The second minus the first in points."""
    pairs = count_pairs(first, second)
    low, high = difference_interval(pairs)
    return (
        f"{100 * pairs.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}); correct only in the first "
        f"{pairs.lost}, only in the second {pairs.gained}, p = {mcnemar(pairs.lost, pairs.gained):.2g}, n = {pairs.n}"
    )


def balls(found: Results) -> list[tuple[str, str]]:
    """Norm and eps of the attacks, in order."""
    return list(dict.fromkeys((each.norm or "", each.eps or "") for each in found if each.eps is not None))


def attacks_in(found: Results, norm: str, eps: str) -> dict[Condition, list[bool]]:
    """Single attacks in a ball."""
    return {
        each: right
        for each, right in found.items()
        if (each.norm, each.eps) == (norm, eps) and each.attack != WORST_CASE
    }


def worst(results: Iterable[list[bool]]) -> list[bool]:
    """Whether each image is correct under all of them."""
    return [all(images) for images in zip(*results, strict=True)]


def table(found: Results) -> str:
    """Markdown: a row for each condition, then what the published protocol over-states."""
    lines = ["| condition | correct (Wilson 95 %) |", "| --- | --- |"]
    lines += [f"| {condition} | {interval(right)} |" for condition, right in found.items()]
    for norm, eps in balls(found):
        inside = attacks_in(found, norm, eps)
        published = [right for each, right in inside.items() if each.access in PUBLISHED]
        if published and len(inside) > len(published):
            what = "worst case over transfer and surrogate (second) minus worst case over all attacks (first)"
            lines.append(f"\n{norm} {eps}, {what}: {paired(worst(inside.values()), worst(published))}")
    return "\n".join(lines)


def differences(first: Results, second: Results) -> str:
    """Markdown: the second run minus the first on the images that both have, which are the first ones of the longer."""
    lines = ["| condition | the second run minus the first |", "| --- | --- |"]
    for condition, right in first.items():
        if condition in second:
            n = min(len(right), len(second[condition]))
            lines.append(f"| {condition} | {paired(right[:n], second[condition][:n])} |")
    return "\n".join(lines)


def draw(found: Results) -> str:
    """One block of rows for each ball: dots are accuracies, lines their intervals."""
    clean = [right for each, right in found.items() if each.attack == CLEAN]
    parts, top = [], 8.0
    for norm, eps in balls(found):
        top += ROW
        parts.append(f'<text class="head" x="8" y="{top}">{escape(norm)} {escape(eps)}</text>')
        rows = [(WORDS[CLEAN], clean[0])] + [
            (WORDS.get(each.access or "", str(each)), right) for each, right in attacks_in(found, norm, eps).items()
        ]
        for words, right in rows:
            top += ROW
            low, high = (LEFT + 100 * SCALE * end for end in wilson_interval(sum(right), len(right)))
            place = LEFT + 100 * SCALE * sum(right) / len(right)
            parts.append(
                f'<text x="8" y="{top}">{escape(words)}</text>'
                f'<line class="rule" x1="{LEFT}" x2="{LEFT + 100 * SCALE:.0f}" y1="{top - 4}" y2="{top - 4}"/>'
                f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{top - 4}" y2="{top - 4}"/>'
                f'<circle class="dot" cx="{place:.1f}" cy="{top - 4}" r="5"/>'
                f'<text class="small" x="{LEFT + 100 * SCALE + 10:.0f}" y="{top}">{sum(right)} / {len(right)}</text>'
            )
    top += ROW
    ticks = "".join(
        f'<text class="small" text-anchor="middle" x="{LEFT + share * SCALE:.0f}" y="{top}">{share} %</text>'
        for share in (0, 25, 50, 75, 100)
    )
    label = "Images classified correctly, by what the attacker knows"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 12:.0f}" role="img" '
        f'aria-label="{label}"><style>{STYLE}</style>{"".join(parts)}{ticks}</svg>\n'
    )


def main() -> None:
    """Print the tables."""
    options = parser.parse_args()
    runs = []
    for folder in options.folders:
        report = build_report(folder)
        runs.append((report.settings["indices"], dict(rights(report))))
        print(f"\n{folder}\n\n{table(runs[-1][1])}")
    if len(runs) == 2:
        (one, first), (other, second) = runs
        shared = min(len(one), len(other))
        if one[:shared] != other[:shared]:
            raise SystemExit("the runs do not begin with the same images")
        print(f"\n{differences(first, second)}")
    if options.svg is not None:
        write_text(options.svg, draw(runs[0][1]))


if __name__ == "__main__":
    main()
