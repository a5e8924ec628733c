"""How the cost grows: with K, steps, images at once, number of images, and the size of the network.

    python benchmarks/growth.py --svg docs/pictures/growth.svg

One quantity is changed at a time, the others stay at K = 10, 2 steps, 4 images at once; the number of images is
purified 4 at a time. The sizes of the network are NCSN++ with deterministic weights, 1 image, K = 4, 2 steps; its cost
is the GFLOP of a step for one latent. After the steps the network runs forward once more. Each point is the least of
--repeats runs after a warm-up. Prints a Markdown table and writes a picture with logarithmic axes, in which a cost that
grows in proportion has the slope of the grey line.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch
from measuring import CLOCKS, machine, step_gflop, timed
from networks import network
from torch import nn

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PRESETS, preset_for
from cmap_cli.device import choose_device

NUM_LATENTS, STEPS, AT_ONCE = 10, 2, 4
AXES: dict[str, tuple[int, ...]] = {
    "latents K": (1, 2, 5, 10, 20),
    "steps": (1, 2, 4, 8, 16),
    "images at once": (1, 2, 4, 8),
    "images, 4 at once": (4, 8, 16),
}
CHANNELS = (8, 16, 32, 64, 128)
NETWORK_AXIS = "GFLOP of a step for one latent"
WIDTH, HEIGHT, MARGIN, COLUMNS = 300, 220, 56, 3
STYLE = """
svg { --ink: #1f2328; --faint: #d0d7de; --a: #0550ae; --b: #9a3412; font: 12px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --faint: #3d444d; --a: #79c0ff; --b: #ffa657; } }
text { fill: var(--ink); } .rule { stroke: var(--faint); } .guide { stroke: var(--faint); stroke-width: 3; }
.line { fill: none; stroke-width: 2; } .a { stroke: var(--a); } .b { stroke: var(--b); stroke-dasharray: 6 3; }
.dot { stroke: none; } .a.dot { fill: var(--a); } .b.dot { fill: var(--b); }
"""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", action="append", help="at most two; cifar10-gaussian and cifar10-unet")
parser.add_argument("--preset", default="balanced", choices=list(PRESETS))
parser.add_argument("--channels", type=int, nargs="*", default=CHANNELS, help="of NCSN++")
parser.add_argument("--repeats", type=int, default=2)
parser.add_argument("--device", default="auto")
parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
parser.add_argument("--svg", type=Path, metavar="FILE")


@dataclass(slots=True)
class Panel:
    """One quantity and the seconds at each of its values, for each model."""

    axis: str
    lines: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def seconds(
    model: nn.Module, arguments: argparse.Namespace, latents: int, steps: int, at_once: int, images: int
) -> float:
    """The least of a few runs."""
    device = choose_device(arguments.device).device
    config = dataclasses.replace(preset_for(arguments.preset, model), num_latents=latents, steps=steps)
    purifier = Purifier(model, config)
    x = torch.rand((at_once, *model.image_shape), generator=torch.Generator().manual_seed(0)).to(device)

    def run(count: int = images) -> None:
        for _ in range(0, count, at_once):
            purifier(x, image_generators(x, 0))

    run(at_once)
    return min(timed(run, device, arguments.clock) for _ in range(arguments.repeats))


def measure(arguments: argparse.Namespace) -> list[Panel]:
    """All panels."""
    device = choose_device(arguments.device).device
    panels = [Panel(axis) for axis in AXES]
    for name in arguments.model or ["cifar10-gaussian", "cifar10-unet"]:
        model = network(name, device)
        for panel in panels:
            points = []
            for value in AXES[panel.axis]:
                setting = {"latents": NUM_LATENTS, "steps": STEPS, "at_once": AT_ONCE, "images": AT_ONCE}
                if panel.axis == "latents K":
                    setting["latents"] = value
                elif panel.axis == "steps":
                    setting["steps"] = value
                elif panel.axis == "images at once":
                    setting |= {"at_once": value, "images": value}
                else:
                    setting["images"] = value
                points.append((value, seconds(model, arguments, **setting)))
                print(f"{name}, {panel.axis} {value}: {points[-1][1]:.3g} s", file=sys.stderr, flush=True)
            panel.lines[name] = points
    sizes = []
    for channels in arguments.channels:
        model = network(f"ncsnpp-random-{channels}", device)
        sizes.append((step_gflop(model), seconds(model, arguments, 4, 2, 1, 1)))
        print(f"NCSN++ of {channels} channels: {sizes[-1][1]:.3g} s", file=sys.stderr, flush=True)
    return [*panels, Panel(NETWORK_AXIS, {"NCSN++": sizes})] if sizes else panels


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope between the last two points, on logarithmic axes."""
    (x1, y1), (x2, y2) = points[-2:]
    return math.log(y2 / y1) / math.log(x2 / x1)


def table(panels: list[Panel]) -> str:
    """Markdown, a row for each panel and model."""
    lines = ["| quantity | model | seconds at each value | seconds grow as its power |", "| --- " * 4 + "|"]
    for panel in panels:
        for name, points in panel.lines.items():
            cells = ", ".join(f"{x:.3g}: {y:.3g}" for x, y in points)
            lines.append(f"| {panel.axis} | `{name}` | {cells} | {exponent(points):.2f} |")
    return "\n".join(lines)


def ticks(low: float, high: float) -> list[float]:
    """1, 10, 100 … between the ends, and 2 and 5 of each decade where there would be fewer than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 3), (1, 2, 5)):
        found = [part * 10.0**decade for decade in decades for part in parts]
        found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(found) >= 3:
            return found
    return found


def draw(panel: Panel, left: float, top: float) -> str:
    """One panel with its axes; logarithmic."""
    points = [point for line in panel.lines.values() for point in line]
    (x_low, x_high), (y_low, y_high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    y_low, y_high = y_low / 1.3, y_high * 1.3

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / x_low) / math.log(x_high / x_low)
        up = math.log(y / y_low) / math.log(y_high / y_low)
        return left + MARGIN + across * (WIDTH - MARGIN - 16), top + HEIGHT - MARGIN - up * (HEIGHT - MARGIN - 30)

    title = "seconds, NCSN++" if panel.axis == NETWORK_AXIS else "seconds"
    parts = [f'<text x="{left + MARGIN}" y="{top + 16}">{title}</text>']
    for tick in ticks(x_low, x_high):
        (x, y), (_, end) = place(tick, y_low), place(tick, y_high)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{y:.1f}" y2="{end:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{tick:g}</text>')
    for tick in ticks(y_low, y_high):
        (x, y), (end, _) = place(x_low, tick), place(x_high, tick)
        parts.append(f'<line class="rule" x1="{x:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle, bottom = left + (MARGIN + WIDTH - 16) / 2, top + HEIGHT - MARGIN + 36
    parts.append(f'<text x="{middle:.1f}" y="{bottom}" text-anchor="middle">{escape(panel.axis)}</text>')
    rise = min(x_high / x_low, y_high / y_low)
    (x1, y1), (x2, y2) = place(x_high / rise, y_high / rise), place(x_high, y_high)
    parts.append(f'<line class="guide" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    for look, (name, line) in zip("ab", panel.lines.items(), strict=False):
        places = [place(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<g><title>{escape(name)}</title><polyline class="line {look}" points="{path}"/>')
        parts += [f'<circle class="{look} dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        parts.append("</g>")
    return "".join(parts)


def legend(names: list[str], top: float) -> str:
    """The models' lines."""
    parts = []
    for index, (look, name) in enumerate(zip("ab", names, strict=False)):
        x = MARGIN + 200 * index
        parts.append(f'<line class="line {look}" x1="{x}" x2="{x + 30}" y1="{top}" y2="{top}"/>')
        parts.append(f'<text x="{x + 38}" y="{top + 4}">{escape(name)}</text>')
    return "".join(parts)


def picture(panels: list[Panel]) -> str:
    """The SVG document; follows the reader's light or dark scheme."""
    height = HEIGHT * -(-len(panels) // COLUMNS) + 30
    body = "".join(draw(one, WIDTH * (i % COLUMNS), 30 + HEIGHT * (i // COLUMNS)) for i, one in enumerate(panels))
    label = "Seconds of a purification against " + ", ".join(panel.axis for panel in panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * COLUMNS} {height}" role="img" '
        f'aria-label="{escape(label)}"><style>{STYLE}</style>{legend(list(panels[0].lines), 14)}{body}</svg>\n'
    )


def main() -> None:
    arguments = parser.parse_args()
    panels = measure(arguments)
    print(f"{machine(choose_device(arguments.device).device)}; {arguments.clock} clock; preset {arguments.preset}\n")
    print(table(panels))
    if arguments.svg:
        arguments.svg.write_text(picture(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
