"""The weight of the classifier in the disruption attack, tuned on images that no benchmark uses.

    python benchmarks/tune_disruption.py --preset fast --n 10 --factor 100 --factor 1000 --factor 10000

The images are the last of the paper's CIFAR-10 subset; `cmap benchmark --n N` takes the first N. Every factor attacks
the same images; what it made is evaluated with fresh draws. The table shows how many images each factor breaks, the
mean share of draws that are wrong, and passes and seconds, those of the attack's own steps included. The best factor
is the one that breaks most images, then the one with most wrong draws. Use it as `--adv-factor`.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
from measuring import CLOCKS, machine, timed

from cmap_cli.attacks.disruption import ConsistencyDisruption
from cmap_cli.attacks.threat import parse_threat
from cmap_cli.benchmarking.report.statistics import draw_outcome, wilson_interval
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import resolve_config
from cmap_cli.data.catalogue import load_dataset
from cmap_cli.defenses.deployed import Defenses
from cmap_cli.device import choose_device, choose_dtype
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.zoo import load_identified_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="cifar10-unet")
parser.add_argument("--classifier", default="pyautoattack-resnet18")
parser.add_argument("--preset", default="fast")
parser.add_argument("--num-latents", type=int)
parser.add_argument("--n", type=int, default=10)
parser.add_argument("--norm", default="Linf")
parser.add_argument("--eps", default="8/255")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--factor", type=float, action="append")
parser.add_argument("--reevaluations", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
parser.add_argument("--device", default="auto")
parser.add_argument("--clock", choices=list(CLOCKS), default="cpu")


def main() -> None:
    """Print the table."""
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = choose_device(options.device).device
    model = load_identified_model(options.model, device, None).model
    classifier = load_classifier(options.classifier, device, image_size=(32, 32), normalisation=None, weights_dir=None)
    config = resolve_config(
        options.preset, model, method=None, steps=None, num_latents=options.num_latents, denoise_level=None
    )
    purifier = Purifier(model, config, dtype=choose_dtype(options.precision, device))
    defenses = Defenses(("cmap",), classifier.module, purifier, "soft", 8, options.seed)
    every = load_dataset("cifar10", n=None, split="subset", labels=None, weights_dir=None)
    held_out = range(len(every) - options.n, len(every))
    print(f"{machine(device)}; images {held_out.start + 1} to {held_out.stop} of the subset, {options.eps}")
    print("| factor | broken | Wilson 95 % | wrong draws | passes | seconds |\n| --- | --- | --- | --- | --- | --- |")
    found = {}
    for factor in options.factor or [10.0, 100.0, 1000.0, 10000.0]:
        attack = ConsistencyDisruption(
            parse_threat(options.norm, options.eps), purifier, classifier.module, options.steps // 5, options.steps,
            adv_factor=factor, evaluations=2,
        )  # fmt: skip
        outcomes, seconds, passes = [], 0.0, 0
        for number in held_out:
            batch = every.select([number]).batch(0, 1)
            x, y = batch.x.to(device), batch.y.to(device)
            target, made = defenses.target("adaptive", "cmap"), list[torch.Tensor]()

            def run(attack=attack, target=target, x=x, y=y, made=made) -> None:  # type: ignore[no-untyped-def]
                made.append(attack.run(target.eval(), x, y, options.seed).x_adv)

            seconds += timed(run, device, options.clock)
            passes += target.passes.forward
            draws = [draw[0] for draw in defenses.evaluate("cmap", made[0], options.reevaluations).draws]
            outcomes.append(draw_outcome(draws, int(y)))
            print(f"{factor:g}, image {number}: {draws} of {int(y)}", file=sys.stderr)
        broken = sum(not one.voted_right for one in outcomes)
        wrong = 1 - math.fsum(one.mean for one in outcomes) / len(outcomes)
        low, high = wilson_interval(broken, len(outcomes))
        found[factor] = broken, wrong
        print(
            f"| {factor:g} | {broken} of {len(outcomes)} | {100 * low:.0f} to {100 * high:.0f} % | {100 * wrong:.0f} % "
            f"| {passes} | {seconds:.0f} |"
        )
    print(f"\nbest: --adv-factor {max(found, key=found.__getitem__):g}")


if __name__ == "__main__":
    main()
