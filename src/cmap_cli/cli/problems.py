"""What is wrong with the options of each command, as far as it can be seen without loading anything: all at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmap_cli.errors import CmapError, UsageError, collecting

Values = Mapping[str, Any]
"""The options and arguments of a command by the names of its parameters; those that are wrong have their default."""


def purify_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap purify``."""
    from cmap_cli.cli.purify import purify_settings
    from cmap_cli.data.inputs import discover
    from cmap_cli.models.weights.manifest import unknown_names

    settings = purify_settings(values)
    found = settings.problems() + unknown_names(settings.model, settings.classifier)
    with collecting(found):
        discover([each for each in values["inputs"] or () if each != "-"])
    return found


def benchmark_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap benchmark``; with --report-only only the conditions count."""
    from cmap_cli.benchmarking.thresholds import Gate, refuse_in_advance
    from cmap_cli.cli import conditions, data_options

    found: list[CmapError] = []
    gate = Gate()
    with collecting(found):
        gate = conditions.gate_of(values)
    found += output_problems(values)
    if values["report_only"] is not None:
        return found
    from cmap_cli.benchmarking.budget import parse_duration
    from cmap_cli.benchmarking.settings import BenchmarkSettings
    from cmap_cli.benchmarking.setup import parse_settings
    from cmap_cli.cli.benchmark_messages import settings_of
    from cmap_cli.data.table import refuse_unknown

    judged = gate.judges or values["fail_on_regression"]
    with collecting(found):
        data_options.check_shard(values["shard"], values["overwrite"], values["out"], judged=judged)
    if values["budget"] is not None:
        with collecting(found):
            parse_duration(values["budget"])
    with collecting(found):
        refuse_unknown(values["dataset"])
    with collecting(found):
        parsed = parse_settings(settings_of(BenchmarkSettings, values))
        refuse_in_advance(gate, parsed.specs, parsed.defenses)
    return found


def output_problems(values: Values) -> list[CmapError]:
    """Files for CI that could not be written after the run, and an earlier run that it could not be compared with."""
    found: list[CmapError] = []
    junit, baseline = values["junit"], values["baseline"]
    if junit is not None and junit.is_dir():
        found.append(UsageError(f"--junit {junit} is a folder", f"--junit {junit / 'junit.xml'}"))
    if values["fail_on_regression"] and baseline is None:
        found.append(UsageError("--fail-on-regression needs a run to compare with", "--baseline DIR"))
    if baseline is not None:
        from cmap_cli.benchmarking.compare import read_report

        with collecting(found):
            settings = read_report(baseline).settings
            dataset = settings.get("dataset") if values["report_only"] else values["dataset"]
            if values["budget"] is not None and values["n"] is None and values["report_only"] is None:
                raise UsageError(
                    f"--budget chooses how many images there are, and --baseline {baseline} has {settings.get('n')}",
                    f"--n {settings.get('n')}",
                )
            for name, own in (("dataset", dataset), ("n", values["n"])):
                if own is not None and settings.get(name) != own:
                    raise UsageError(
                        f"--baseline {baseline} was measured with --{name} {settings.get(name)}, not {own}",
                        "a comparison in pairs needs the same images",
                    )
    return found


def attack_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap attack``."""
    from cmap_cli.benchmarking.settings import AttackSettings
    from cmap_cli.benchmarking.setup import parse_settings
    from cmap_cli.cli.benchmark_messages import settings_of
    from cmap_cli.data.table import refuse_unknown
    from cmap_cli.runs.shard import resolve_shard

    found: list[CmapError] = []
    with collecting(found):
        resolve_shard(values["shard"], values["overwrite"])
    for name in values["images"] or ():
        if name != "-":
            with collecting(found):
                refuse_unknown(name)
    with collecting(found):
        parse_settings(settings_of(AttackSettings, values))
    return found


def certify_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap certify``; with --report-only only the thresholds count."""
    from cmap_cli.benchmarking.certificates.settings import CertifySettings, check
    from cmap_cli.benchmarking.certificates.thresholds import parse_certify_thresholds, refuse_certify_thresholds
    from cmap_cli.cli import data_options
    from cmap_cli.cli.benchmark_messages import settings_of
    from cmap_cli.data.table import refuse_unknown
    from cmap_cli.models.weights.manifest import unknown_names

    found: list[CmapError] = []
    thresholds = None
    with collecting(found):
        thresholds = parse_certify_thresholds(values["fail_under"] or ())
    if values["report_only"] is not None:
        return found
    with collecting(found):
        judged = bool(values["fail_under"])
        data_options.check_shard(values["shard"], values["overwrite"], values["out"], judged=judged)
    if values["budget"] is not None:
        from cmap_cli.benchmarking.budget import parse_duration

        with collecting(found):
            parse_duration(values["budget"])
    with collecting(found):
        refuse_unknown(values["dataset"])
    settings = settings_of(CertifySettings, values)
    found += unknown_names(settings.model, settings.classifier)
    with collecting(found):
        check(settings)
        refuse_certify_thresholds(thresholds or (), settings.sigma, settings.radius)
    return found


def compare_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap compare``."""
    from cmap_cli.benchmarking.compare import check_alpha, refuse_missing

    found: list[CmapError] = []
    picture: Path | None = values["picture"]
    if picture is not None and picture.suffix.lower() != ".svg":
        found.append(UsageError(f"--picture {picture} is not an SVG file", "--picture compare.svg"))
    with collecting(found):
        check_alpha(values["alpha"])
    for place in (values["base"], values["new"]):
        if place is not None:
            with collecting(found):
                refuse_missing(place)
    return found


def merge_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap merge``."""
    from cmap_cli.cli.merge import conditions_of

    parts, out = values["parts"] or (), values["out"]
    found: list[CmapError] = [
        UsageError(f"{part} is no folder", "name folders that cmap has written to")
        for part in parts
        if not part.is_dir()
    ]
    if len(parts) > 1 and out is None:
        found.append(UsageError(f"{len(parts)} folders need a place for the whole", "--out DIR"))
    if values["overwrite"] and out is None:
        found.append(UsageError("--overwrite is for --out", "leave it out"))
    with collecting(found):
        conditions_of(values, [part for part in parts if part.is_dir()])
    return found


def train_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap train``."""
    from cmap_cli.cli.train import parse_widths, train_settings
    from cmap_cli.data.table import refuse_unknown
    from cmap_cli.training.plan import find_images, plan_problems

    found: list[CmapError] = []
    with collecting(found):
        parse_widths(values["widths"])
    settings = train_settings({**values, "widths": None} if found else values)
    out, images = values["out"], values["images"] or ()
    if out is None:  # which is a mistake of its own
        return found + settings.problems()
    found += plan_problems(out, settings)
    with collecting(found):
        if settings.model_kind == "classifier":
            for name in images:
                refuse_unknown(name)
        elif "-" not in images:
            find_images(images, out, settings)
    return found


def download_weights_problems(values: Values) -> list[CmapError]:
    """Problems of ``cmap download-weights``."""
    from cmap_cli.models.weights.download import select_artefacts

    found: list[CmapError] = []
    names, modes = values["names"] or (), ("everything", "list_them", "verify", "check_manifest")
    chosen = sum(bool(values[name]) for name in modes)
    if chosen > 1 or (names and chosen):
        found.append(
            UsageError("names, --all, --list, --verify and --check-manifest exclude each other", "give one of them")
        )
    with collecting(found):
        select_artefacts(names)
    return found
