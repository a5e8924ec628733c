"""``cmap purify``."""

from __future__ import annotations

import dataclasses
import sys
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
from cmap_cli.cli.purify_messages import announce, print_summary
from cmap_cli.errors import CmapError, UsageError

if TYPE_CHECKING:
    from cmap_cli.classifiers import LoadedClassifier
    from cmap_cli.core.types import Step
    from cmap_cli.inputs import Discovery, Source
    from cmap_cli.models import LoadedModel
    from cmap_cli.purification import Failed, Job
    from cmap_cli.results import Record, ResultFolder

SCHEMA = "cmap.purify/1"
PARTIAL = 3
JSON_FAILURES = 1000
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
    weights_dir: options.WeightsDir = None,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
) -> None:
    """Purify images: remove adversarial perturbations, without touching any classifier.

    Examples:

      cmap purify ./images --out ./clean

      cmap purify photo.png --out clean --preset fast --compare

      find . -name '*.png' | cmap purify - --out clean --quiet

    The same command resumes an interrupted run. OUT/manifest.jsonl has one line for each image.
    """
    began = time.monotonic()
    found, labels_by_path = validate(inputs, out, image_format, labels, classifier, select)
    silent = quiet or json
    if not silent:
        console.say(
            f"{len(found.sources)} images" + (f", {found.skipped} other files skipped" if found.skipped else "")
        )

    from cmap_cli import estimate, purification
    from cmap_cli.classifiers import load_classifier
    from cmap_cli.core.purify import PRESETS, Purifier
    from cmap_cli.device import choose_device, choose_dtype
    from cmap_cli.figures import write_comparison
    from cmap_cli.models import load_identified_model
    from cmap_cli.outputs import FORMATS, check_existing
    from cmap_cli.perceptual import load_similarity
    from cmap_cli.results import COMPARISON_FILE, RUN_FILE, ResultFolder
    from cmap_cli.summary import summarise

    chosen = choose_device(device)
    published = PRESETS[preset]
    config = dataclasses.replace(
        published, steps=steps or published.steps, num_latents=num_latents or published.num_latents
    )
    loaded = load_identified_model(model, chosen.device, weights_dir)
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
    results = None
    if not dry_run:
        if not (overwrite or (out / RUN_FILE).exists()):
            check_existing(found.sources, job.extension, out)
        out.mkdir(parents=True, exist_ok=True)
        results = ResultFolder(out, settings, overwrite=overwrite)
        if results.done and not silent:
            console.say(f"{len(results.done)} images are there already")
    remaining = [source for source in found.sources if results is None or str(source) not in results.done]
    looked = estimate.survey(job, remaining)
    most = batch_size or estimate.patch_batch_size(purifier, chosen.device)
    job = dataclasses.replace(job, batch_size=max(1, min(most, looked.patches)))
    seconds = 0.0
    if looked.patches and (dry_run or not silent):
        seconds = estimate.seconds_per_patch(purifier, chosen.device, job.batch_size)
    if not silent:
        announce(job, looked, seconds, f"{model} on {chosen.device} ({chosen.reason})", preset, verbose)
    if results is None:
        if json:
            cost = {"patches": looked.patches, "seconds": round(looked.patches * seconds, 1)}
            console.result_json({"schema": SCHEMA, "dry_run": True, "settings": settings, "estimate": cost})
        return
    failures = [{"source": failure.path, "error": failure.error.message} for failure in found.failures]
    for failure in found.failures:
        console.fail(failure.error)
    written, already_there = 0, len(results.done)
    for outcome in loop(job, found.sources, results, silent=silent):
        if isinstance(outcome, purification.Failed):
            console.fail(outcome.error)
            failures.append({"source": outcome.source, "error": outcome.error.message})
        else:
            written += 1
            if quiet and not json:
                console.result(str(out / outcome["output"]))
    summary = summarise(results.records(), true_labels)
    if compare:
        write_comparison(out / COMPARISON_FILE, list(purification.comparisons(job, results, found.sources, COMPARED)))
    if json:
        document = {
            "schema": SCHEMA,
            "exit_code": PARTIAL if failures else 0,
            "settings": settings,
            "out": str(out),
            "manifest": str(results.manifest_path),
            "written": written,
            "already_there": already_there,
            "failed": len(failures),
            "failures": failures[:JSON_FAILURES],
            "seconds": round(time.monotonic() - began, 3),
            "summary": dataclasses.asdict(summary),
        }
        console.result_json(document)
    elif not quiet:
        print_summary(out, written, len(failures), summary, job)
    if failures:
        raise typer.Exit(PARTIAL)


def validate(
    inputs: list[str], out: Path, image_format: ImageFormat, labels: Path | None, classifier: str | None, select: Select
) -> tuple[Discovery, dict[Path, str]]:
    """All that can be found wrong before torch is loaded, raised at once."""
    from cmap_cli.inputs import Discovery, discover
    from cmap_cli.labels import read_labels
    from cmap_cli.outputs import FORMATS, check_collisions, check_output_folder

    problems: list[CmapError] = []
    found, true_labels = Discovery(), {}
    if select == "vote" and classifier is None:
        problems.append(UsageError("--select vote needs a classifier", "--classifier pyautoattack-resnet18"))
    if labels is not None and classifier is None:
        problems.append(UsageError("--labels needs a classifier to compare with", "--classifier pyautoattack-resnet18"))
    try:
        found = discover(inputs, sys.stdin if "-" in inputs else None)
        check_collisions(found.sources, FORMATS[image_format], out)
    except CmapError as error:
        problems.append(error)
    try:
        check_output_folder(found.folders, out)
    except CmapError as error:
        problems.append(error)
    try:
        true_labels = read_labels(labels) if labels else {}
    except CmapError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise UsageError("several things are wrong", problems=problems)
    return found, true_labels


def condition(loaded: LoadedModel, wanted: str | None, classifier: LoadedClassifier | None) -> int | None:
    """The class that a class-conditional model is told for all images; None: the classifier's prediction, or none."""
    from cmap_cli.core.types import num_classes

    classes = num_classes(loaded.model)
    if not classes:
        if wanted is not None:
            raise UsageError(f"--class {wanted} is for class-conditional models; {loaded.name} is none")
        return None
    if wanted is not None:
        if wanted.isdecimal() and int(wanted) < classes:
            return int(wanted)
        if classifier is not None and classifier.num_classes == classes:
            return classifier.class_index(wanted)
        raise UsageError(f"--class {wanted} is no number below {classes}, the classes of {loaded.name}")
    if classifier is None:
        raise UsageError(
            f"{loaded.name} needs a class for each image, one of {classes}",
            "--classifier NAME tells it what it predicts; --class N is for all images",
        )
    if classifier.num_classes != classes:
        raise UsageError(
            f"{loaded.name} is conditioned on {classes} classes, {classifier.name} has {classifier.num_classes}",
            "--class N, or a classifier of the same classes",
        )
    return None


def class_names(labels: dict[Path, str], classifier: LoadedClassifier | None) -> dict[Path, str]:
    """The labels as the classifier names its classes; "3" becomes "cat"."""
    if classifier is None:
        return {}
    return {path: classifier.class_name(classifier.class_index(label)) for path, label in labels.items()}


def loop(job: Job, sources: list[Source], results: ResultFolder, *, silent: bool) -> Iterator[Record | Failed]:
    """The outcomes of the images, with progress on stderr."""
    from cmap_cli.purification import purify_sources

    with console.reporting(len(sources), "images", quiet=silent) as progress:

        def on_step(step: Step) -> None:
            if step.index % 10 == 0:
                loss = float(step.total.mean())
                progress.detail(f"step {step.index}/{step.steps} loss {loss:.0f}")

        progress.done = len(results.done)
        for outcome in purify_sources(job, sources, results, on_step if progress.shows_detail else None):
            progress.advance()
            yield outcome
