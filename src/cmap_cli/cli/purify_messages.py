"""What ``cmap purify`` prints before, during and after the work."""

from __future__ import annotations

import math
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cmap_cli.cli import console
from cmap_cli.cli.progress import Reporter, reporting
from cmap_cli.purify.events import Listed, Message, PlannedModel, Progress, PurifyPlan
from cmap_cli.purify.settings import PurifySettings

if TYPE_CHECKING:
    from cmap_cli.purify.run import PurifyResult
    from cmap_cli.purify.summary import Summary

LOADING = "loading the models"
LOSS_STEPS = 10
"""The loss is shown at most once in this many steps, because reading it makes an accelerator wait."""


class Narrator(ExitStack):
    """Prints what a purification reports: messages and progress on stderr; with --quiet the paths of results on stdout.

    Args:
        out: the output folder.
        settings: of the purification.
        silent: whether no progress is printed.
        paths: whether the path of each result is printed.
        verbose: whether more is printed about model and settings.
    """

    def __init__(self, out: Path, settings: PurifySettings, *, silent: bool, paths: bool, verbose: bool) -> None:
        super().__init__()
        self.out = out
        self.settings = settings
        self.silent = silent
        self.paths = paths
        self.verbose = verbose
        self.reporter: Reporter | None = None
        self.loss = ""

    def __enter__(self) -> Self:
        if not self.silent:
            self.reporter = self.enter_context(reporting(None, "images", loading=LOADING))
        return self

    def message(self, message: Message) -> None:
        """Print a message."""
        if isinstance(message, Listed):
            whose = "" if message.shard is None else f", {message.own} of them in shard {message.shard}"
            skipped = f", {console.count(message.skipped, 'other file')} skipped" if message.skipped else ""
            console.say(f"{console.count(message.images, 'image')}{whose}{skipped}")
        else:
            show_purify_plan(message, self.settings, verbose=self.verbose)

    def progress(self, progress: Progress) -> None:
        """Show progress; print failures, and with --quiet the paths of results."""
        if self.reporter is not None and self.reporter.total is None:
            self.reporter.begin(progress.total, "images")
        if progress.step is not None:
            step = progress.step  # of a window there is no loss, which would make an accelerator wait
            if self.reporter is not None and (self.reporter.shows_detail or step.index == 0 or step.total is None):
                self.reporter.detail(self.in_work(progress))
            return
        if self.reporter is not None:
            self.reporter.reach(progress.done, progress.left)
        if progress.failure is not None:
            console.fail(progress.failure.error)
        if progress.image is not None and self.paths:
            console.result(str(self.out / progress.image.output))

    def in_work(self, progress: Progress) -> str:
        """The current work: "photo.png, tile 3 of 12, step 4 of 8, loss 120"."""
        step, patch = progress.step, progress.patch
        assert step is not None
        parts = [] if patch is None else [patch.source]
        if patch is not None and patch.count > 1:
            parts.append(f"tile {patch.number} of {patch.count}")
        if step.total is None:  # denoising has no objective
            return ", ".join([*parts, f"pass {step.index + 1} of {step.steps}"] if step.steps > 1 else parts)
        parts.append(f"step {step.index + 1} of {step.steps}")
        often = max(1, min(LOSS_STEPS, step.steps // 4))
        if self.reporter is not None and self.reporter.shows_detail and step.index % often == 0:
            self.loss = f"loss {progress.loss:.0f}"
        return ", ".join([*parts, self.loss] if self.loss else parts)


def show_purify_plan(plan: PurifyPlan, settings: PurifySettings, *, verbose: bool) -> None:
    """Print what will be done and about how long it takes; warn if images will be cut or blurred."""
    looked, seconds = plan.survey, plan.seconds_per_patch
    if plan.already_there:
        console.say(f"{console.count(plan.already_there, 'image is', 'images are')} there already")
    if not looked.patches and plan.already_there:
        console.say("nothing is left to do")
    whole = console.time_range(plan.patches(looked.patches))
    for number, each in enumerate(plan.models if looked.patches else (), 1):
        about = whole if number == len(plan.models) else ""
        console.say(
            f"{each.name} on {plan.device} ({plan.reason}): preset {plan.preset}, "
            f"{', '.join(filter(None, (method_of(each), patches_of(each), about)))}"
        )
        if verbose:
            console.say(f"{each.config}")
        if each.config.method == "optimise" and not each.generates:
            console.warn(
                f"{each.name} was trained to denoise only: optimised latents give a blur; --preset fast and balanced "
                "denoise"
            )
    if verbose:
        console.say(f"{plan.batch_size} patches at once, {plan.precision}, {console.duration(seconds)} per patch")
    if looked.tiled:
        console.warn(
            f"{console.count(looked.tiled, 'image does', 'images do')} not fit the model and will be cut into "
            f"{looked.tiled_patches} tiles, {console.time_range(plan.patches(looked.tiled_patches))}; seams may show, "
            "which --model auto has not"
        )


def method_of(planned: PlannedModel) -> str:
    """ "10 latents × 8 steps", or for denoising alone its draws of noise."""
    config = planned.config
    if config.method == "optimise":
        return f"{console.count(config.num_latents, 'latent')} × {console.count(config.steps, 'step')}"
    draws = console.count(config.num_latents, "draw of noise", "draws of noise")
    return f"{draws} at t = {config.denoise_level:g}, denoised once"


def patches_of(planned: PlannedModel) -> str:
    """ "24 patches of 32×32", or of how many sizes they are."""
    sizes, number = planned.sizes, sum(planned.sizes.values())
    patches = console.count(number, "patch", "patches")
    if len(sizes) == 1:
        ((height, width),) = sizes
        return f"{patches} of {width}×{height}"
    return f"{patches} of {len(sizes)} sizes" if sizes else patches


def document(result: PurifyResult) -> Any:
    """The JSON document of the command."""
    from cmap_cli.purify.documents import DryRunDocument, PurifyCost, PurifyDocument

    if result.dry_run or result.summary is None:
        patches = result.plan.survey.patches
        left, there = result.plan.patches(patches), result.plan.already_there
        cost = PurifyCost(patches=patches, low=round(left.low, 1), high=round(left.high, 1), already_there=there)
        return DryRunDocument(settings=result.settings, estimate=cost)
    return PurifyDocument(
        exit_code=result.exit_code,
        settings=result.settings,
        out=str(result.out),
        manifest=str(result.manifest),
        shard=result.shard,
        written=result.written,
        already_there=result.already_there,
        failed=result.failed,
        failures=result.failures,
        seconds=round(result.seconds, 3),
        summary=result.summary,
    )


def warn_of_results(result: PurifyResult) -> None:
    """Warn where the results are far from their inputs."""
    from cmap_cli.purify.summary import FAITHFUL_PSNR

    found = result.summary
    if found is not None and found.psnr is not None and found.is_unfaithful:
        console.warn(
            f"the results are far from their inputs, PSNR {found.psnr:.1f} dB on average (below {FAITHFUL_PSNR:.0f}): "
            "the model does not suit these images; --compare shows them, cmap train makes a model of your own images"
        )


def print_summary(result: PurifyResult, summary: Summary, settings: PurifySettings) -> None:
    """Print the results and how the predictions changed."""
    failed = f", {result.failed} failed" if result.failed else ""
    models = summary.models
    of_each = " and ".join(f"{name} ({count})" if len(models) > 1 else name for name, count in models.items())
    by = f" with {of_each}" if models else ""
    console.result(f"{console.count(result.written, 'image')} purified into {result.out}{by}{failed}")
    if summary.l1 is not None:
        console.result(
            f"distance to the input: mean |difference| {255 * summary.l1:.1f}/255, "
            f"PSNR {summary.psnr or math.inf:.1f} dB, SSIM {summary.ssim:.3f}"
        )
    if settings.classifier is not None and summary.labelled:
        numbers = dict.fromkeys(each.config.num_latents for each in result.plan.models)
        wrong_before = summary.labelled - (summary.right_before or 0)
        console.result(
            f"{settings.classifier}: {summary.right_before} of {summary.labelled} correct before purification, "
            f"{summary.right_after} after, {summary.right_vote} by the {settings.vote} vote of "
            f"{' or '.join(map(str, numbers))} candidates"
        )
        console.result(
            f"{summary.regained} of {wrong_before} that were wrong are correct after purification, "
            f"{summary.lost} of {summary.right_before} that were correct are wrong after it"
        )
    elif settings.classifier is not None:
        console.result(
            f"{settings.classifier}: another class after purification for {summary.changed} of {summary.images}"
        )
    if result.shard is not None:
        console.say(f"this was shard {result.shard}; when all are done: cmap merge {shlex.quote(str(result.out))}")
