"""What ``cmap purify`` prints before, during and after the work."""

from __future__ import annotations

import math
import shlex
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cmap_cli.cli import console
from cmap_cli.cli.progress import Reporter, reporting
from cmap_cli.purify.events import Listed, Message, Progress, PurifyPlan
from cmap_cli.purify.settings import PurifySettings

if TYPE_CHECKING:
    from cmap_cli.purify.run import PurifyResult
    from cmap_cli.purify.summary import Summary

LOADING = "loading the models"
LOSS_STEPS = 10
"""The loss is shown every so many steps at most; reading it makes an accelerator wait."""


class Narrator(ExitStack):
    """Prints what a purification reports: talk and progress on stderr, and for --quiet the paths of results on stdout.

    Args:
        out: the output folder.
        settings: of the purification.
        silent: whether progress is left out.
        paths: whether the path of each result is printed.
        verbose: whether more is printed about what is used.
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
        """Print what is known before the work."""
        if isinstance(message, Listed):
            whose = "" if message.shard is None else f", {message.own} of them in shard {message.shard}"
            skipped = f", {console.count(message.skipped, 'other file')} skipped" if message.skipped else ""
            console.say(f"{console.count(message.images, 'image')}{whose}{skipped}")
        else:
            announce(message, self.settings, verbose=self.verbose)

    def progress(self, progress: Progress) -> None:
        """Show progress; print failures, and the paths of results where they are asked for."""
        if self.reporter is not None and self.reporter.total is None:
            self.reporter.begin(progress.total, "images")
        if progress.step is not None:
            if self.reporter is not None and (self.reporter.shows_detail or progress.step.index == 0):
                self.reporter.detail(self.in_work(progress))
            return
        if self.reporter is not None:
            self.reporter.reach(progress.done, progress.left)
        if progress.failure is not None:
            console.fail(progress.failure.error)
        if progress.image is not None and self.paths:
            console.result(str(self.out / progress.image.output))

    def in_work(self, progress: Progress) -> str:
        """What is in work: "photo.png, tile 3 of 12, step 4 of 8, loss 120"."""
        step, patch = progress.step, progress.patch
        assert step is not None
        parts = [] if patch is None else [patch.source]
        if patch is not None and patch.count > 1:
            parts.append(f"tile {patch.number} of {patch.count}")
        parts.append(f"step {step.index + 1} of {step.steps}")
        often = max(1, min(LOSS_STEPS, step.steps // 4))
        if self.reporter is not None and self.reporter.shows_detail and step.index % often == 0:
            self.loss = f"loss {progress.loss:.0f}"
        return ", ".join([*parts, self.loss] if self.loss else parts)


def announce(plan: PurifyPlan, settings: PurifySettings, *, verbose: bool) -> None:
    """Print what will be done and about how long it takes; warn about images that will be cut or resized."""
    config, (height, width), looked, seconds = plan.config, plan.patch_size, plan.survey, plan.seconds_per_patch
    took = f"{console.time_range(plan.patches(looked.patches))}" if looked.patches else "nothing is left to do"
    if plan.already_there:
        console.say(f"{console.count(plan.already_there, 'image is', 'images are')} there already")
    console.say(
        f"{plan.model} on {plan.device} ({plan.reason}): preset {plan.preset}, "
        f"{config.num_latents} latents × {config.steps} steps, "
        f"{console.count(looked.patches, 'patch', 'patches')} of {width}×{height}, "
        f"{took}"
    )
    if verbose:
        console.say(f"{plan.batch_size} patches at once, {plan.precision}, {console.duration(seconds)} per patch")
        console.say(f"{config}")
    if looked.tiled:
        console.warn(
            f"{console.count(looked.tiled, 'image is', 'images are')} not {width}×{height} and will be cut into "
            f"{looked.tiled_patches} tiles, {console.time_range(plan.patches(looked.tiled_patches))}; the model was "
            "not made for tiles of larger images"
        )
    if looked.resized:
        cost = console.time_range(plan.patches(looked.resized_patches))
        console.warn(
            f"{console.count(looked.resized, 'image needs', 'images need')} more than {settings.max_tiles} tiles and "
            f"will be resized to {width}×{height}; --fit tile keeps the size, with {looked.resized_patches} tiles and "
            f"{cost}"
        )


def document(result: PurifyResult) -> Any:
    """The document of --json."""
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
    """Print what was done and what it did to the predictions."""
    failed = f", {result.failed} failed" if result.failed else ""
    console.result(f"{console.count(result.written, 'image')} purified into {result.out}{failed}")
    if summary.l1 is not None:
        console.result(
            f"distance to the input: mean |difference| {255 * summary.l1:.1f}/255, "
            f"PSNR {summary.psnr or math.inf:.1f} dB, SSIM {summary.ssim:.3f}"
        )
    if settings.classifier is not None and summary.labelled:
        wrong_before = summary.labelled - (summary.right_before or 0)
        console.result(
            f"{settings.classifier}: {summary.right_before} of {summary.labelled} correct before purification, "
            f"{summary.right_after} after, {summary.right_vote} by the {settings.vote} vote of "
            f"{result.plan.config.num_latents} candidates"
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
