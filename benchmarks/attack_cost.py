"""What breaking an image costs: an attack that lets broken images go beside one that takes all steps, and hammer.

    python benchmarks/attack_cost.py --n 16 --eps 2/255 --preset fast --log attack_cost.jsonl

The same images, one at a time in turn, through the deployed defence (--defense cmap, white-box gradients or --access):

- "all steps": PGD as it was, every image gets all steps;
- "leaving": the same PGD, an image leaves once it is broken for good;
- "hammer": as many steps as cost what the steps of PGD cost, by the seconds of a pass and of a gradient that are
  measured first; broken images leave, too.

Each result is evaluated with fresh draws; an image is broken if the vote is wrong, a tie included. Seconds are those of
the attack alone, on the process's CPU clock by default. --log keeps every image's result: the same command goes on
where it stopped. The tables show sums, seconds per broken image, ratios, and the exact McNemar test of the pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import CLOCKS, machine, timed
from torch import Tensor

from cmap_cli.attacks.pgd import PGD
from cmap_cli.attacks.selective import SelectiveAttack
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.attacks.types import Attack
from cmap_cli.benchmarking.paired import count_pairs, difference_interval, mcnemar
from cmap_cli.benchmarking.report.statistics import draw_outcome, wilson_interval
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import resolve_config
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.defenses.deployed import AttackedModule, Defenses
from cmap_cli.device import choose_device, choose_dtype
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.zoo import load_identified_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="cifar10-unet")
parser.add_argument("--classifier", default="pyautoattack-resnet18")
parser.add_argument("--preset", default="fast")
parser.add_argument("--method", help="optimise or denoise")
parser.add_argument("--num-latents", type=int, help="K, instead of the preset's")
parser.add_argument("--denoise-level", type=float, help="t, instead of the preset's")
parser.add_argument("--n", type=int, default=20)
parser.add_argument("--norm", default="Linf")
parser.add_argument("--eps", default="2/255")
parser.add_argument("--access", choices=["bpda", "white-box"], default="white-box")
parser.add_argument("--steps", type=int, default=20, help="of PGD")
parser.add_argument("--eot", type=int, default=1, help="draws in a gradient of PGD")
parser.add_argument("--draws", type=int, default=5, help="of hammer in a step; 0 for a run without hammer")
parser.add_argument("--reevaluations", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
parser.add_argument("--device", default="auto")
parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")
parser.add_argument("--log", type=Path, help="JSON lines of finished images")


def defenses_of(options: argparse.Namespace) -> Defenses:
    """The deployed defence."""
    device = choose_device(options.device).device
    model = load_identified_model(options.model, device, None).model
    classifier = load_classifier(options.classifier, device, image_size=(32, 32), normalisation=None, weights_dir=None)
    config = resolve_config(
        options.preset,
        model,
        method=options.method,
        steps=None,
        num_latents=options.num_latents,
        denoise_level=options.denoise_level,
    )
    purifier = Purifier(model, config, dtype=choose_dtype(options.precision, device))
    return Defenses(("cmap",), classifier.module, purifier, "soft", 8, options.seed)


def equal_steps(defenses: Defenses, options: argparse.Namespace, x: Tensor) -> int:
    """Steps of hammer that take as long as those of PGD, if no image leaves."""
    model = defenses.target(options.access, "cmap").eval()
    inside = x.clone().requires_grad_()

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def gradient() -> None:
        torch.autograd.grad(model(inside).sum(), inside)

    forward()
    one, both = (min(timed(run, x.device, options.clock) for _ in range(3)) for run in (forward, gradient))
    print(f"a pass takes {one:.2f} s, a gradient {both:.2f} s", file=sys.stderr)
    return max(1, round(options.steps * options.eot * both / (options.draws * one + both)))


def attacks(defenses: Defenses, options: argparse.Namespace, x: Tensor) -> dict[str, Attack]:
    """What takes turns."""
    threat = parse_threat(options.norm, options.eps)
    pgd = PGD(threat, options.access, steps=options.steps, eot=options.eot, compares=False)
    found: dict[str, Attack] = {"all steps": dataclasses.replace(pgd, confirmations=0), "leaving": pgd}
    if options.draws:
        steps = equal_steps(defenses, options, x)
        found["hammer"] = SelectiveAttack(threat, options.access, steps=steps, draws=options.draws, compares=False)
    return found


def timed_attack(
    attack: Attack, model: AttackedModule, x: Tensor, y: Tensor, options: argparse.Namespace
) -> tuple[Tensor, float]:
    """The attacked image, and how many seconds it took."""
    made: list[Tensor] = []
    seconds = timed(lambda: made.append(attack.run(model.eval(), x, y, options.seed).x_adv), x.device, options.clock)
    return made[0], seconds


def results(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One line per image and attack, those of the log first."""
    done = set()
    for line in options.log.read_text().splitlines() if options.log and options.log.exists() else ():
        found = json.loads(line)
        done.add((found["image"], found["attack"]))
        yield found
    defenses = defenses_of(options)
    dataset = load_dataset("cifar10", n=options.n, split="subset", labels=None, weights_dir=None)
    device = choose_device(options.device).device
    chosen: dict[str, Attack] = {}
    for number in range(options.n):
        batch = dataset.select([number]).batch(0, 1)
        x, y = batch.x.to(device), batch.y.to(device)
        chosen = chosen or attacks(defenses, options, x)
        for name, attack in chosen.items():
            if (number, name) in done:
                continue
            model = defenses.target(options.access, "cmap")
            x_adv, seconds = timed_attack(attack, model, x, y, options)
            draws = [draw[0] for draw in defenses.evaluate("cmap", x_adv, options.reevaluations).draws]
            outcome = draw_outcome(draws, int(y))
            found = {
                "image": number, "attack": name, "method": attack.name, "seconds": round(seconds, 3),
                "forward": model.passes.forward, "backward": model.passes.backward, "broken": not outcome.voted_right,
                "right": outcome.mean,
            }  # fmt: skip
            if options.log:
                with options.log.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(found) + "\n")
            print(found, file=sys.stderr)
            yield found


def main() -> None:
    """Print the tables."""
    options = parser.parse_args()
    torch.set_num_threads(1)
    by_attack: dict[str, dict[int, dict[str, object]]] = {}
    for found in results(options):
        by_attack.setdefault(str(found["attack"]), {})[int(str(found["image"]))] = found
    images = sorted(set.intersection(*(set(each) for each in by_attack.values())))
    print(machine(choose_device(options.device).device))
    print(f"{options.model}, {options.preset}, {options.access}, {options.norm} {options.eps}, n = {len(images)}")
    print("| attack | broken | Wilson 95 % | draws right | passes forward, backward | seconds | per broken image |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    seconds, right = {}, {}
    for name, found_by in by_attack.items():
        rows = [found_by[image] for image in images]
        broken = sum(bool(row["broken"]) for row in rows)
        low, high = wilson_interval(broken, len(rows))
        total = math.fsum(float(str(row["seconds"])) for row in rows)
        forward, backward = (sum(int(str(row[key])) for row in rows) for key in ("forward", "backward"))
        mean = math.fsum(float(str(row["right"])) for row in rows) / len(rows)
        seconds[name], right[name] = total, [not row["broken"] for row in rows]
        each = f"{total / broken:.1f} s" if broken else "none broken"
        print(
            f"| {name} ({rows[0]['method']}) | {broken} of {len(rows)} | {100 * low:.0f} to {100 * high:.0f} % | "
            f"{100 * mean:.1f} % | {forward}, {backward} | {total:.0f} | {each} |"
        )
    for first, second in (("all steps", "leaving"), ("leaving", "hammer"), ("all steps", "hammer")):
        if first in seconds and second in seconds:
            pairs = count_pairs(right[first], right[second])
            low, high = difference_interval(pairs)
            print(
                f"{second} against {first}: {seconds[first] / seconds[second]:.2f} times as quick; accuracy "
                f"{100 * pairs.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), only {second} breaks "
                f"{pairs.lost}, only {first} breaks {pairs.gained}, p = {mcnemar(pairs.lost, pairs.gained):.3f}"
            )


if __name__ == "__main__":
    main()
