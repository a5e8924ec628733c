"""What ``cmap purify`` says before, during and after the work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.cli import console

if TYPE_CHECKING:
    from cmap_cli.core.types import Step
    from cmap_cli.data.inputs import Source
    from cmap_cli.purify.estimate import Survey
    from cmap_cli.purify.folder import ResultFolder
    from cmap_cli.purify.job import Failed, Job
    from cmap_cli.purify.summary import Summary
    from cmap_cli.runs.settings import Record


def announce(job: Job, looked: Survey, seconds: float, where: str, preset: str, verbose: bool) -> None:
    """Say what will be done and about how long it takes; warn about what is not done as it stands."""
    config, (height, width) = job.purifier.config, job.patch_size
    console.say(
        f"{where}: preset {preset}, {config.num_latents} latents × {config.steps} steps, "
        f"{looked.patches} patches of {width}×{height}, about {console.duration(looked.patches * seconds)}"
    )
    if verbose:
        console.say(f"{job.batch_size} patches at once, {job.purifier.dtype}, {console.duration(seconds)} a patch")
        console.say(f"{config}")
    if looked.tiled:
        console.warn(
            f"{looked.tiled} images are not {width}×{height}: they are cut into {looked.tiled_patches} tiles, about "
            f"{console.duration(looked.tiled_patches * seconds)}; the model was not made for tiles of larger images"
        )
    if looked.resized:
        cost = console.duration(looked.resized_patches * seconds)
        console.warn(
            f"{looked.resized} images need more than {job.max_tiles} tiles and are resized to {width}×{height}; "
            f"--fit tile keeps their size, with {looked.resized_patches} tiles and about {cost}"
        )


def loop(job: Job, sources: list[Source], results: ResultFolder, *, silent: bool) -> Iterator[Record | Failed]:
    """The outcomes of the images, with progress on stderr."""
    from cmap_cli.purify.stream import purify_sources

    with console.reporting(len(sources), "images", quiet=silent) as progress:

        def on_step(step: Step) -> None:
            if step.index % 10 == 0:
                loss = float(step.total.mean())
                progress.detail(f"step {step.index}/{step.steps} loss {loss:.0f}")

        progress.reach(sum(str(source) in results.done for source in sources))
        for outcome in purify_sources(job, sources, results, on_step if progress.shows_detail else None):
            progress.advance()
            yield outcome


def print_summary(out: Path, written: int, failed: int, summary: Summary, job: Job) -> None:
    """What was done and what it did to the predictions."""
    console.result(f"{written} images purified into {out}" + (f", {failed} failed" if failed else ""))
    if summary.l1 is not None:
        console.result(
            f"distance to the input: mean |difference| {255 * summary.l1:.1f}/255, "
            f"PSNR {summary.psnr or math.inf:.1f} dB, SSIM {summary.ssim:.3f}"
        )
    if job.classifier is None:
        return
    if not summary.labelled:
        console.result(
            f"{job.classifier.name}: another class after purification for {summary.changed} of {summary.images}"
        )
        return
    wrong_before = summary.labelled - (summary.right_before or 0)
    console.result(
        f"{job.classifier.name}: {summary.right_before} of {summary.labelled} right as they came, "
        f"{summary.right_after} as written, {summary.right_vote} by the {job.vote} vote of "
        f"{job.purifier.config.num_latents} candidates"
    )
    console.result(
        f"{summary.regained} of {wrong_before} that were wrong regained their class, "
        f"{summary.lost} of {summary.right_before} that were right lost it"
    )
