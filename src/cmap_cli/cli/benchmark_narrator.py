"""What ``cmap benchmark`` and ``cmap attack`` print before and during the work: the plan, and the current work."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from cmap_cli.cli import console
from cmap_cli.cli.progress import Reporter, reporting
from cmap_cli.runs.documents import encode

if TYPE_CHECKING:
    from cmap_cli.benchmarking.budget import TimePlan
    from cmap_cli.benchmarking.events import BenchmarkPlan, BenchmarkProgress

LOADING = "loading the models"


class BenchmarkNarrator(ExitStack):
    """Prints what a benchmark reports while it runs, beginning with the loading of the models.

    Args:
        silent: whether no progress is printed.
        plan: whether the plan is printed even if no progress is.
        verbose: whether the plan names all settings.
    """

    def __init__(self, *, silent: bool, plan: bool = False, verbose: bool = False) -> None:
        super().__init__()
        self.silent = silent
        self.wants_plan = plan or not silent
        self.verbose = verbose
        self.reporter: Reporter | None = None

    def __enter__(self) -> Self:
        self.reporter = self.enter_context(reporting(None, "tasks", quiet=self.silent, loading=LOADING))
        return self

    def phase(self, text: str) -> None:
        """A phase begins whose work cannot be counted."""
        if self.reporter is not None:
            self.reporter.work(text)

    def plan(self, plan: BenchmarkPlan) -> None:
        """What will be done."""
        show_benchmark_plan(plan, verbose=self.verbose)

    def progress(self, progress: BenchmarkProgress) -> None:
        """Show how much is done, and which work is going on."""
        if self.reporter is None:
            return
        if self.reporter.total is None:
            self.reporter.begin(progress.total, "tasks")
        self.reporter.detail(in_work(progress))
        self.reporter.reach(progress.done, progress.left)


def in_work(progress: BenchmarkProgress) -> str:
    """The work that is going on: "pgd@white-box 8/255 on cmap, image 3, pass 4 of 12, step 6 of 8"."""
    if not progress.item:
        return ""
    last = progress.image + progress.images - 1
    parts = [progress.item, f"image {progress.image}" if progress.images == 1 else f"images {progress.image} to {last}"]
    if progress.stage == "evaluation":
        parts.append(f"evaluation {progress.passes} of {progress.planned}")
    elif progress.planned:
        parts.append(f"pass {min(progress.passes + 1, progress.planned)} of {progress.planned}")
    if progress.step:
        of = "" if progress.step > progress.steps else f" of {progress.steps}"  # a gradient sweeps over them again
        parts.append(f"step {progress.step}{of}")
    return ", ".join(parts)


def show_benchmark_plan(plan: BenchmarkPlan, *, verbose: bool) -> None:
    """Print what will be done, how long the rest of this shard takes, and how long a thorough run would take."""
    from cmap_cli.benchmarking.cost import THOROUGH_IMAGES
    from cmap_cli.runs.shard import WHOLE

    campaign, chosen = plan.prepared.campaign, plan.prepared.chosen
    attacks, defenses = ", ".join(map(str, campaign.specs)), ", ".join(campaign.defenses.names)
    balls = f"{campaign.threats[0].norm} {', '.join(threat.spelled for threat in campaign.threats)}"
    console.say(
        f"{console.count(len(campaign.dataset), 'image')} of {campaign.dataset.name}, {campaign.classifier.name} "
        f"behind {defenses}; {attacks}; {balls}; {console.count(campaign.reevaluations, 're-evaluation')}"
    )
    of_shard = "" if plan.shard == WHOLE else f"; shard {plan.shard}: {plan.tasks} of {plan.all_tasks} tasks"
    there = f", {plan.done} of {console.count(plan.tasks, 'task')} are there already" if plan.done else ""
    if plan.time is not None:
        show_time_plan(plan.time)
    took = console.time_range(plan.cost.remaining) if plan.done < plan.tasks else "nothing is left to do"
    console.say(f"{chosen.device} ({chosen.reason}): {took}, into {plan.folder}{of_shard}{there}")
    console.say(
        f"a thorough run ({THOROUGH_IMAGES} images, 100 steps, 20 draws in every gradient, 5000 queries, 20 "
        f"re-evaluations) takes {console.time_range(plan.cost.thorough)} on this device"
    )
    if verbose:
        console.say(encode(plan.prepared.settings))


def show_time_plan(plan: TimePlan) -> None:
    """Print the settings that were chosen for --budget, and how wide the intervals will be."""
    from cmap_cli.benchmarking.budget import plan_text, widths

    console.say(f"for {console.duration(plan.seconds)}: {plan_text(plan.chosen)}")
    none, half = (f"{width:.0f}" for width in plan.widths)
    if plan.least is not None and plan.least < plan.chosen["n"]:
        wide = widths(plan.least)
        none, half = f"{none} to {wide[0]:.0f}", f"{half} to {wide[1]:.0f}"
        console.say(f"the run ends in time with the images that are done by then, probably {plan.least} or more")
    console.say(f"the 95 % interval will be {none} points wide if no image stays correct, {half} if half of them do")
    for sentence in plan.weak:
        console.say(f"weak budget: {sentence}")
