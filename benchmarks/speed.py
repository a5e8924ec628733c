"""Seconds a step of the plain reference loop and of ours, on the same network and the same images.

    python benchmarks/speed.py --model cifar10-gaussian --model cifar10-unet --model ncsnpp-random

In one process, after a warm-up of one step each, the two take turns: (a) benchmarks/reference_loop.py, one image at a
time in float32, and (b) our Purifier with preset paper, all images at once in the device's preferred precision. With
--log a third, (a) with the classifier run for its log (the ResNet-18 of pyautoattack). With --quick our preset
balanced, too, whose steps are fewer. Times are divided by steps and images; the table shows medians, and the median,
the least and the largest ratio of the pairs. ncsnpp-random is OpenAI's CIFAR-10 network at full size with
deterministic weights (benchmarks/networks.py).

GFLOP are those of convolutions and products, forward and back to the latents; the reach is what the device does in a
large product or convolution of the same run.
Peak memory is max_memory_allocated on CUDA; elsewhere the largest resident set of a process of its own that runs one
step of (a) or (b) and nothing else, interpreter and weights included. Progress goes to stderr, the table to stdout.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import CLOCKS, machine, median_of_pairs, peak_memory, reach, step_gflop, timed
from networks import network
from reference_loop import reference_loop
from torch import nn

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PRESETS, preset_for
from cmap_cli.device import choose_device, choose_dtype

SMALL = (8, 5, 5)
FULL = (1, 1, 3)
"""Images, steps and pairs by default, of the bundled models and of the full-size one."""

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", action="append", required=True, help="a name that cmap takes, or ncsnpp-random[-WIDTH]")
parser.add_argument("--latents", type=int, default=10)
parser.add_argument("--images", type=int, help="8; 1 for ncsnpp-random")
parser.add_argument("--steps", type=int, help="timed at once; 5; 1 for ncsnpp-random")
parser.add_argument("--pairs", type=int, help="5; 3 for ncsnpp-random")
parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of ours")
parser.add_argument("--device", default="auto")
parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu where other processes are busy")
parser.add_argument("--log", action="store_true")
parser.add_argument("--quick", action="store_true")
parser.add_argument("--json", type=Path, metavar="FILE")
parser.add_argument("--peak-of", choices=["reference", "paper"], help=argparse.SUPPRESS)


def as_published(model: nn.Module) -> nn.Module:
    """The network with PyTorch's default order of the channels, which the reference runs."""
    return model.to(memory_format=torch.contiguous_format)


def contenders(
    model: Any, plain: Any, arguments: argparse.Namespace, images: int, steps: int
) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each computes ``steps`` steps for ``images`` images, the reference with ``plain``."""
    device = choose_device(arguments.device).device
    x = torch.rand((images, *model.image_shape), generator=torch.Generator().manual_seed(0)).to(device)
    config = dataclasses.replace(PRESETS["paper"], num_latents=arguments.latents, steps=steps)
    dtype = choose_dtype(arguments.precision, device)
    draw = Purifier(model, config).draw(x, image_generators(x, 0))

    def reference(classifier: Any = None) -> None:
        try:
            reference_loop(plain, x, draw.latents, config, classifier)
        finally:
            plain.requires_grad_(False).zero_grad(set_to_none=True)

    def ours(preset: Any) -> Callable[[], object]:
        changed = dataclasses.replace(preset_for(preset, model), num_latents=arguments.latents, steps=steps)
        return lambda: Purifier(model, changed, dtype=dtype).descent(x, draw).run()

    named = {"reference": reference, "paper": ours("paper")}
    if arguments.log:
        from cmap_cli.models.classifiers import load_classifier

        classifier = load_classifier(device=device).module
        named["reference with log"] = lambda: reference(classifier)
    if arguments.quick:
        named["balanced"] = ours("balanced")
    return named


def peak_of(name: str, model: str, arguments: argparse.Namespace, images: int) -> float:
    """Peak memory of one step, in MiB, of a process of its own."""
    options = {"--latents": arguments.latents, "--device": arguments.device, "--precision": arguments.precision}
    command = [sys.executable, __file__, "--model", model, "--images", str(images), "--peak-of", name]
    run = subprocess.run(
        [*command, *(str(each) for option in options.items() for each in option)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def measure(name: str, arguments: argparse.Namespace, reached: dict[str, float]) -> dict[str, Any]:
    """All figures of one model."""
    device = choose_device(arguments.device).device
    defaults = FULL if name.startswith("ncsnpp-random") else SMALL
    images, steps, pairs = (
        default if asked is None else asked
        for asked, default in zip((arguments.images, arguments.steps, arguments.pairs), defaults, strict=True)
    )
    model = network(name, device)
    plain = as_published(copy.deepcopy(model))
    for run in contenders(model, plain, arguments, images, 1).values():
        run()
    runs = contenders(model, plain, arguments, images, steps)
    seconds: dict[str, list[float]] = {each: [] for each in runs}
    for index in range(pairs):
        order = list(runs) if index % 2 == 0 else list(runs)[::-1]
        for each in order:
            seconds[each].append(timed(runs[each], device, arguments.clock) / steps / images)
            print(f"{name} {each}: {seconds[each][-1]:.4f} s a step and image", file=sys.stderr, flush=True)
    gflop = arguments.latents * step_gflop(model)
    speed = gflop / statistics.median(seconds["paper"])
    return {
        "model": name,
        "images": images,
        "latents": arguments.latents,
        "steps_timed": steps * pairs,
        "steps_of_balanced": preset_for("balanced", model).steps,
        "seconds_per_step_and_image": {each: statistics.median(values) for each, values in seconds.items()},
        "all_seconds": seconds,
        "ratios": {
            each: median_of_pairs(seconds[each], seconds["paper"]) for each in runs if each.startswith("reference")
        },
        "gflop_per_step_and_image": gflop,
        "gflop_per_second": speed,
        "share_of_reach": speed / max(reached.values()),
        "peak_mib": {each: peak_of(each, name, arguments, images) for each in ("reference", "paper")},
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, a row for each model."""
    head = (
        "| model | images × K, steps timed | reference, s a step and image | ours | ratio (least to largest) "
        "| GFLOP a step and image | GFLOP/s of ours | of the reach | peak, reference / ours |"
    )
    lines = [head, "| --- " * (head.count("|") - 1) + "|"]
    for one in results:
        seconds = one["seconds_per_step_and_image"]
        for loop, (median, least, largest) in one["ratios"].items():
            lines.append(
                f"| `{one['model']}`{' (reference with its log)' if 'log' in loop else ''} "
                f"| {one['images']} × {one['latents']}, {one['steps_timed']} | {seconds[loop]:.4g} "
                f"| {seconds['paper']:.4g} | {median:.1f} ({least:.1f} to {largest:.1f}) "
                f"| {one['gflop_per_step_and_image']:.3g} | {one['gflop_per_second']:.1f} "
                f"| {100 * one['share_of_reach']:.0f} % "
                f"| {one['peak_mib']['reference']:.0f} / {one['peak_mib']['paper']:.0f} MiB |"
            )
    return "\n".join(lines)


def quick_table(results: list[dict[str, Any]]) -> str:
    """Seconds an image at the presets' numbers of steps, from the seconds a step."""
    paper = PRESETS["paper"].steps
    lines = [
        f"| model | reference, {paper} steps | ours, paper, {paper} steps | ours, balanced (its steps) | ratio |",
        "| --- " * 5 + "|",
    ]
    for one in results:
        seconds, balanced = one["seconds_per_step_and_image"], one["steps_of_balanced"]
        reference, quick = paper * seconds["reference"], balanced * seconds["balanced"]
        lines.append(
            f"| `{one['model']}` | {reference:.3g} s | {paper * seconds['paper']:.3g} s | {quick:.3g} s ({balanced}) "
            f"| {reference / quick:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = parser.parse_args()
    device = choose_device(arguments.device).device
    if arguments.peak_of:
        (name,) = arguments.model
        model = network(name, device)
        if arguments.peak_of == "reference":
            model = as_published(model)
        contenders(model, model, arguments, arguments.images, 1)[arguments.peak_of]()
        print(peak_memory(device))
        return
    precisions = {name: reach(device, choose_dtype(name, device), arguments.clock) for name in ("fp32", "bf16")}
    preferred = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}[
        choose_dtype(arguments.precision, device)
    ]
    reached = precisions.get(preferred) or reach(device, choose_dtype(arguments.precision, device), arguments.clock)
    results = [measure(name, arguments, reached) for name in arguments.model]
    print(f"{machine(device)}; {arguments.clock} clock; ours in {preferred}\n")
    for name, found in precisions.items():
        print(f"Reach in {name}: " + ", ".join(f"{kind} {value:.0f} GFLOP/s" for kind, value in found.items()) + "  ")
    print(f"\n{table(results)}")
    if arguments.quick:
        print(f"\n{quick_table(results)}")
    if arguments.json:
        document = {"machine": machine(device), "precision": preferred, "reach_gflop_per_second": precisions}
        document |= {"clock": arguments.clock, "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
