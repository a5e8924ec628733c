"""``cmap purify``."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.choices import (
    DEFAULT_MODEL,
    DEFAULT_PRESET,
    DEFAULT_SELECT,
    Fit,
    ImageFormat,
    LpipsTrunk,
    Perceptual,
    Select,
    Vote,
)
from cmap_cli.cli import console, options
from cmap_cli.cli.purify_checks import class_names, condition, validate
from cmap_cli.cli.purify_messages import announce, loop, print_summary
from cmap_cli.runs.shard import WHOLE, Shard
from cmap_cli.runs.team import join_team

if TYPE_CHECKING:
    from cmap_cli.data.inputs import Discovery
    from cmap_cli.purify.job import Failed

SCHEMA = "cmap.purify/1"
PARTIAL = 3
COMPARED = 24


def purify(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help="Files, folders, patterns in quotes, arrays (.npy, .npz, .safetensors), or - for paths on stdin.",
            show_default=False,
        ),
    ],
    out: options.Out,
    image_format: Annotated[
        ImageFormat,
        typer.Option("--format", help="Of the images written.", rich_help_panel=options.INPUT_OUTPUT),
    ] = "png",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Write OUT/comparison.png: input, purified, difference ×10 of up to 24 images.",
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV file with the columns file and label, for a summary of what is classified right.",
            show_default=False,
            rich_help_panel=options.INPUT_OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    model: options.Model = DEFAULT_MODEL,
    preset: options.PresetOption = DEFAULT_PRESET,
    steps: options.Steps = None,
    num_latents: options.NumLatents = None,
    select: Annotated[
        Select,
        typer.Option(
            help="Which of the K candidates is written; vote needs --classifier.", rich_help_panel=options.METHOD
        ),
    ] = DEFAULT_SELECT,
    classifier: options.Classifier = None,
    normalisation: options.Normalisation = None,
    vote: Annotated[
        Vote, typer.Option(help="How the candidates' predictions are combined.", rich_help_panel=options.METHOD)
    ] = "soft",
    perceptual: Annotated[
        Perceptual, typer.Option(help="The perceptual term of the objective.", rich_help_panel=options.METHOD)
    ] = "ssim",
    lpips_trunk: Annotated[
        LpipsTrunk, typer.Option(help="The network under LPIPS.", rich_help_panel=options.METHOD)
    ] = "vgg",
    class_label: options.ClassLabel = None,
    fit: Annotated[
        Fit,
        typer.Option(
            help="Images of another size than the model's: tile keeps their size; resize and crop write the model's; "
            "auto tiles up to --max-tiles, else resizes.",
            rich_help_panel=options.METHOD,
        ),
    ] = "auto",
    max_tiles: Annotated[int, typer.Option(min=1, help="For --fit auto.", rich_help_panel=options.METHOD)] = 64,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.PrecisionOption = "auto",
    batch_size: options.BatchSize = None,
    shard: options.ShardOption = None,
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
) -> None:
    """Purify images: remove adversarial perturbations, without touching any classifier.

    Examples:

      cmap purify ./images --out ./clean

      cmap purify photo.png --out clean --preset fast --compare

      find . -name '*.png' | cmap purify - --out clean --quiet

      torchrun --nproc-per-node 4 -m cmap_cli -- purify ./images --out ./clean

      cmap purify ./images --out ./clean --shard 2/8

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    began = time.monotonic()
    found, labels_by_path, own = validate(
        inputs, out, image_format, labels, classifier, select, shard, overwrite, compare
    )
    sources = [source for source in found.sources if own.owns(source.relative.as_posix())]
    silent = quiet or json or not console.leads()
    if not silent:
        whose = "" if own == WHOLE else f", {len(sources)} of them in shard {own}"
        skipped = f", {found.skipped} other files skipped" if found.skipped else ""
        console.say(f"{len(found.sources)} images{whose}{skipped}")
    share = join_team(own, device)

    from cmap_cli.core.memory import common_batch_size, even_batches, patch_batch_size
    from cmap_cli.core.purifier import Purifier
    from cmap_cli.core.settings import preset_for
    from cmap_cli.data.outputs import FORMATS, check_existing
    from cmap_cli.data.sheets import write_comparison
    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.models.classifiers import load_classifier
    from cmap_cli.models.perceptual import load_similarity
    from cmap_cli.models.zoo import load_identified_model
    from cmap_cli.purify import estimate
    from cmap_cli.purify import job as purification
    from cmap_cli.purify.folder import ResultFolder
    from cmap_cli.purify.summary import summarise
    from cmap_cli.runs.merge import merge_folder
    from cmap_cli.runs.progress import MOST_FAILURES, Part, read_parts, write_part
    from cmap_cli.runs.settings import COMPARISON_FILE, MANIFEST_FILE, RUN_FILE

    chosen = choose_device(share.device)
    loaded = load_identified_model(model, chosen.device, weights_dir)
    published = preset_for(preset, loaded.model)
    config = dataclasses.replace(
        published, steps=steps or published.steps, num_latents=num_latents or published.num_latents
    )
    shown_to = None
    if classifier is not None:
        shown_to = load_classifier(
            classifier,
            chosen.device,
            image_size=loaded.model.image_shape[1:],
            normalisation=normalisation,
            weights_dir=weights_dir,
        )
    label = condition(loaded, class_label, shown_to)
    true_labels = class_names(labels_by_path, shown_to)
    similarity = load_similarity(perceptual, lpips_trunk, weights_dir, chosen.device)
    dtype = choose_dtype(precision, chosen.device)
    purifier = Purifier(loaded.model, config, similarity, dtype)
    job = purification.Job(
        purifier=purifier,
        device=chosen.device,
        seed=seed,
        fit=fit,
        max_tiles=max_tiles,
        select=select,
        vote=vote,
        classifier=shown_to,
        extension=FORMATS[image_format],
        batch_size=1,
        label=label,
    )
    settings = {
        "model": model,
        "model_sha256": loaded.sha256,
        **dataclasses.asdict(config),
        "perceptual": perceptual if perceptual == "ssim" else f"{perceptual}-{lpips_trunk}",
        "select": select,
        "vote": vote,
        "classifier": classifier,
        "normalisation": normalisation,
        "class": class_label,
        "fit": fit,
        "max_tiles": max_tiles,
        "seed": seed,
        "precision": str(dtype).removeprefix("torch."),
        "format": image_format,
    }
    remaining = sources
    results = None
    if not dry_run:
        with share.leader_first():
            forgets = share.forgets(overwrite)
            if not (forgets or (out / RUN_FILE).exists()):
                check_existing(found.sources, job.extension, out, (out / RUN_FILE).exists)
            out.mkdir(parents=True, exist_ok=True)
            results = ResultFolder(out, settings, overwrite=forgets, shard=own)
        results.forget_changed(sources)
        remaining = [source for source in sources if str(source) not in results.done]
        if len(remaining) < len(sources) and not silent:
            console.say(f"{len(sources) - len(remaining)} images are there already")
    looked = estimate.survey(job, remaining)
    of_all = looked if len(remaining) == len(found.sources) else estimate.survey(job, found.sources)
    most = batch_size or common_batch_size(share.exchange(patch_batch_size(purifier, chosen.device, share.sharers)))
    job = dataclasses.replace(job, batch_size=even_batches(of_all.patches, most))
    seconds = 0.0
    if looked.patches and console.leads() and (dry_run or not silent):
        seconds = estimate.seconds_per_patch(purifier, chosen.device, job.batch_size)
    if not silent:
        announce(job, looked, seconds, f"{model} on {chosen.device} ({chosen.reason})", preset, verbose)
    if results is None:
        if json:
            cost = {"patches": looked.patches, "seconds": round(looked.patches * seconds, 1)}
            console.result_json({"schema": SCHEMA, "dry_run": True, "settings": settings, "estimate": cost})
        share.leave(0)
        return
    failures: list[dict[str, str]] = []
    failed = written = 0
    part = Part(own, len(found.sources) + len(found.failures), len(sources))
    with results:
        write_part(out, part)
        for outcome in itertools.chain(found_failures(found, own), loop(job, sources, results, silent=silent)):
            if isinstance(outcome, purification.Failed):
                console.fail(outcome.error)
                failed += 1
                if len(failures) < MOST_FAILURES:
                    failures.append({"source": outcome.source, "error": outcome.error.message})
            else:
                written += 1
                if quiet and not json:
                    console.result(str(out / outcome["output"]))
        part = dataclasses.replace(part, finished=True, failed=failed, failures=tuple(failures))
        write_part(out, part)
        manifest_path, results_of_part = results.manifest_path, list(results.journal.paths())
    code = PARTIAL if failed else 0
    told = share.exchange((failed, written, len(sources) - len(remaining), failures))
    if share.leads:
        failed, written, already_there = (sum(each[column] for each in told) for column in range(3))
        failures = [failure for each in told for failure in each[3]][:MOST_FAILURES]
        code = PARTIAL if failed else 0
        if not share.partial and (results_of_part != [out / MANIFEST_FILE] or read_parts(out)):
            merge_folder(out, final=True)
            manifest_path = out / MANIFEST_FILE
        with ResultFolder(out, settings, shard=own if share.partial else WHOLE) as results:
            summary = summarise(results.records(), true_labels)
            if compare:
                shown = purification.comparisons(job, results, found.sources, COMPARED)
                write_comparison(out / COMPARISON_FILE, list(shown))
        if json:
            document = {
                "schema": SCHEMA,
                "exit_code": code,
                "settings": settings,
                "out": str(out),
                "manifest": str(manifest_path),
                "shard": str(own) if share.partial else None,
                "written": written,
                "already_there": already_there,
                "failed": failed,
                "failures": failures,
                "seconds": round(time.monotonic() - began, 3),
                "summary": dataclasses.asdict(summary),
            }
            console.result_json(document)
        elif not quiet:
            print_summary(out, written, failed, summary, job)
            if share.partial:
                console.say(f"this was shard {own}; when all are done: cmap merge {shlex.quote(str(out))}")
    if code := share.leave(code):
        raise typer.Exit(code)


def found_failures(found: Discovery, own: Shard) -> Iterator[Failed]:
    """What could not even be listed, of this shard."""
    from cmap_cli.purify.job import Failed

    return (Failed(failure.path, failure.error) for failure in found.failures if own.owns(failure.path))
