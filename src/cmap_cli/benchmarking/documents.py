"""The files and JSON documents of ``cmap benchmark`` and ``cmap attack``, typed: what is decoded has these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cmap_cli.errors import UsageError
from cmap_cli.runs.documents import UNDECODABLE, Document, Seconds, read_document
from cmap_cli.runs.settings import SETTINGS_FILE

BENCHMARK_SCHEMA = "cmap.benchmark/1"


class GradientRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Diagnostics of the gradients of an attack.

    Attributes:
        zero: share of entries that were exactly 0.
        not_finite: entries that were NaN or infinite.
        cosine: cosine of two draws of the gradient at the clean image; None after the first ``control_images`` images.
    """

    zero: float | None
    not_finite: int
    cosine: float | None


ClassNumber = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")]
"""A class as the key of a JSON object."""


class BenchmarkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl ("cmap.record/1"): one image under one attack, or clean, in front of one defence.

    Attributes:
        image: number of the image in the data set of the run, from 0.
        key: stable name of the image, "cifar10/test/17".
        label: class of the image.
        label_is_prediction: the image has no label; ``label`` is the classifier's prediction for the clean image.
        item: the attack with access, ball and attacked defence (the name of its folder below adversarial/), or "clean".
        method: the attack with its settings, "PGD-100+EOT20".
        attack: "pgd", "clean", ...
        access: access of the attacker; None for clean images, as are norm, eps and eps_value.
        norm: norm of the ball.
        eps: radius of the ball as the user wrote it, "8/255".
        eps_value: radius of the ball as a number.
        control: the attack is used only by a masking check.
        distance: distance between the attacked image and the clean one, in the norm of the ball.
        reported_success: whether the attack itself reports success.
        unchanged: whether the attack returned the clean image.
        gradient: diagnostics of its gradients; None for an attack without gradients.
        flags: warnings of the attack.
        forward: passes of the attacked model per image; passes with a gradient are in ``backward``.
        seconds: seconds per image.
        file: the safetensors file with the attacked image, relative to the folder of the run; None for clean images.
        row: row of the image in this file.
        defense: the defence that was evaluated.
        undefended: class that the bare classifier predicts for the attacked image; None for a skipped image.
        draws: class that the defended classifier predicts, once per re-evaluation; empty for a skipped image.
        votes: only for the defence "smoothed": number of noisy samples per class, once per re-evaluation.
        l2: ℓ2 distance between the attacked image and the clean one, whatever the norm of the ball.
        broken_by: for a skipped image: the ``item`` of the earlier attack that broke it.
    """

    image: int
    key: str
    label: int
    label_is_prediction: bool = False
    item: str = ""
    method: str = ""
    attack: str
    access: str | None = None
    norm: str | None = None
    eps: str | None = None
    eps_value: float | None = None
    control: bool = False
    distance: float | None = None
    reported_success: bool = False
    unchanged: bool = False
    gradient: GradientRecord | None = None
    flags: tuple[str, ...] = ()
    forward: float | None = None
    backward: float | None = None
    seconds: float | None = None
    file: str | None = None
    row: int | None = None
    defense: str
    undefended: int | None
    draws: tuple[int, ...]
    votes: tuple[dict[ClassNumber, int], ...] = ()
    l2: float | None = None
    broken_by: str | None = None


class StoredFlag(msgspec.Struct, frozen=True, kw_only=True):
    """A check that is stored in benchmark.json."""

    name: str
    fired: bool
    what: str
    attack: str | None = None
    checked: bool = True


class JudgedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a report is computed with; other settings are only shown."""

    n: int | None = None
    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    eps: tuple[str, ...] = ()
    budget: dict[str, Any] | None = None


class BenchmarkDocument(Document, frozen=True, kw_only=True):
    """benchmark.json: the settings of a run, and its provenance.

    Attributes:
        settings: everything that determines the records; a run continues only with equal settings.
        provenance: versions, device, weights and command line of the first start.
        flags: checks in addition to those that are computed from the records.
    """

    schema: Literal["cmap.benchmark/1"]
    settings: dict[str, Any]
    provenance: dict[str, Any] = msgspec.field(default_factory=dict)
    flags: tuple[StoredFlag, ...] = ()


class AttackLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of manifest.jsonl of ``cmap attack``: one image, as floats and as an 8-bit PNG file.

    Attributes:
        key: name of the clean image.
        label: class of the image; ``label_is_prediction`` as in :class:`BenchmarkRecord`.
        attack: name of the attack; access, norm, eps and distance as in :class:`BenchmarkRecord`.
        file: the safetensors file with the image as floats; ``row`` is its row there.
        classifier: class that the bare classifier predicts for the floats.
        defense: name of the defence; ``defended`` are the classes that it predicts for the floats.
        success: whether the bare classifier is wrong on the floats; ``success_defended``: the defended classifier.
        png: the PNG file; distance and successes after rounding to 8 bits.
    """

    key: str
    label: int
    label_is_prediction: bool
    attack: str
    access: str | None
    norm: str | None
    eps: str | None
    distance: float | None
    file: str
    row: int
    classifier: int
    defense: str
    defended: tuple[int, ...]
    success: bool
    success_defended: bool
    png: str
    png_distance: float
    png_success: bool
    png_success_defended: bool


class Successes(msgspec.Struct, frozen=True, kw_only=True):
    """How many images of ``cmap attack`` the bare and the defended classifier get wrong, as floats and as PNG."""

    images: int
    success: int
    success_defended: int
    png_success: int
    png_success_defended: int


class BenchmarkShardOutput(Document, frozen=True, kw_only=True):
    """What ``cmap benchmark --shard --json`` prints."""

    schema: str = "cmap.benchmark-result/1"
    exit_code: int
    out: str
    shard: str
    records: str


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated time of a run on this device.

    Attributes:
        remaining: time of the tasks that are not finished.
        thorough: time with 500 images, 100 steps, 20 draws per gradient, 5000 queries and 20 re-evaluations.
        tasks: number of tasks of this process; a task is an image under one attack, or clean.
        done: number of these that earlier runs have finished in the output folder.
        chosen: settings that ``--budget`` chose; ``n`` is the largest number of images that the time may be enough for.
        least_images: images that the time is enough for at the upper end of the estimate; null if --n was given.
        weak: with ``--budget``: budgets that the report will call weak whatever the results.
    """

    remaining: Seconds
    thorough: Seconds
    tasks: int
    done: int
    chosen: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    least_images: int | msgspec.UnsetType | None = msgspec.UNSET
    weak: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class BenchmarkDryRunOutput(Document, frozen=True, kw_only=True):
    """What ``cmap benchmark --dry-run --json`` prints."""

    schema: str = "cmap.benchmark-result/1"
    dry_run: Literal[True] = True
    settings: dict[str, Any]
    estimate: Estimate


class AttackDryRunOutput(Document, frozen=True, kw_only=True):
    """What ``cmap attack --dry-run --json`` prints."""

    schema: str = "cmap.attack/1"
    dry_run: Literal[True] = True
    settings: dict[str, Any]
    estimate: Estimate


class AttackOutput(Document, frozen=True, kw_only=True):
    """What ``cmap attack --json`` prints."""

    schema: str = "cmap.attack/1"
    exit_code: int
    settings: dict[str, Any]
    out: str
    images: int
    success: int
    success_defended: int
    png_success: int
    png_success_defended: int


class AttackShardOutput(Document, frozen=True, kw_only=True):
    """What ``cmap attack --shard --json`` prints."""

    schema: str = "cmap.attack/1"
    exit_code: int
    settings: dict[str, Any]
    out: str
    shard: str
    images: int


def read_benchmark(folder: Path) -> BenchmarkDocument:
    """The settings and provenance of a run (UsageError: the file is missing, damaged or of another program)."""
    path = folder / SETTINGS_FILE
    hint = "name the folder of a run of cmap benchmark or cmap attack"
    document = read_document(path, BenchmarkDocument, UsageError, hint)
    try:
        msgspec.convert(document.settings, JudgedSettings)
    except UNDECODABLE as error:
        raise UsageError(f"{path} is damaged or of another program: {error} in its settings", hint) from error
    return document
