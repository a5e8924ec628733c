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
    """What the gradients of an attack looked like.

    Attributes:
        zero: share of entries that were exactly 0.
        not_finite: entries that were NaN or infinite.
        cosine: between two draws of the gradient at the clean images; None beyond the first ``control_images``.
    """

    zero: float | None
    not_finite: int
    cosine: float | None


ClassNumber = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")]
"""A class as the key of a JSON object."""


class BenchmarkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl ("cmap.record/1"): one image under one attack, or clean, in front of one defence.

    Attributes:
        image: its number in the data set of the run, from 0.
        key: its stable name, "cifar10/test/17".
        label: its class.
        label_is_prediction: it has no label; the classifier's prediction on the clean image stands in for it.
        item: the attack with access, ball and attacked defence, as its folder below adversarial/ is called; "clean".
        method: the attack with its settings, "PGD-100+EOT20".
        attack: "pgd", "clean", ...
        access: of the attacker; None for clean images, as are norm, eps and eps_value.
        norm: of the ball.
        eps: its radius as the user wrote it, "8/255".
        eps_value: its radius as a number.
        control: the attack serves a masking check only.
        distance: between the attacked image and the clean one, in the norm of the ball.
        reported_success: the attack's own claim.
        unchanged: the attack returned the clean image.
        gradient: what its gradients looked like; None for an attack without gradients.
        flags: what the attack warned of.
        forward: passes of the attacked model per image, and those with a gradient in ``backward``.
        seconds: per image.
        file: the safetensors file with the attacked image, relative to the folder of the run; None for clean images.
        row: its row there.
        defense: the defence that was evaluated.
        undefended: the class that the bare classifier sees in the attacked image; None for a skipped image.
        draws: the class that the defended classifier sees, once per re-evaluation; empty for a skipped image.
        votes: of the defence "smoothed", how many noisy samples have each class, once per re-evaluation.
        l2: the distance between the attacked image and the clean one in ℓ2, whatever the ball.
        broken_by: the attack was not run, because an earlier one has broken the image for good: that one's ``item``.
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
    """The settings that a report relies on; others are only shown."""

    n: int | None = None
    defenses: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()
    eps: tuple[str, ...] = ()
    budget: dict[str, Any] | None = None


class BenchmarkDocument(Document, frozen=True, kw_only=True):
    """benchmark.json: the settings of a run, and what is known of its circumstances.

    Attributes:
        settings: what determines the records; a run resumes only with equal ones.
        provenance: versions, device, weights, command; of the first start.
        flags: checks beside those that are computed from the records.
    """

    schema: Literal["cmap.benchmark/1"]
    settings: dict[str, Any]
    provenance: dict[str, Any] = msgspec.field(default_factory=dict)
    flags: tuple[StoredFlag, ...] = ()


class AttackLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of manifest.jsonl of ``cmap attack``: one image, as floats and as an 8-bit PNG file.

    Attributes:
        key: name of the clean image.
        label: its class; ``label_is_prediction`` as in :class:`BenchmarkRecord`.
        attack: its name; access, norm, eps and distance as in :class:`BenchmarkRecord`.
        file: the safetensors file with the floats, and its ``row``.
        classifier: the class that the bare classifier sees in the floats.
        defense: the defence; ``defended`` are the classes that it sees in the floats.
        success: whether the floats deceive the classifier, in ``success_defended`` the defended one.
        png: the PNG file, with its distance and successes after rounding to 8 bits.
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
    """How many images of ``cmap attack`` deceive the classifier and the defended classifier, as floats and as PNG."""

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
    """What a run will take on this device.

    Attributes:
        remaining: of the tasks that are not done yet.
        thorough: of 500 images, 100 steps, 20 draws in every gradient, 5000 queries and 20 re-evaluations.
        tasks: of this process: an image under one attack, or clean.
        done: of these, finished by earlier runs in the output folder.
        chosen: the settings that ``--budget`` chose; of the images as many as the time can suffice for.
        least_images: images that it suffices for even if all takes as long as estimated; null if --n was given.
        weak: what the report will call weak whatever its outcome; with ``--budget``.
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
    """The settings and provenance of a run (UsageError: no such file, or it is damaged or of another program)."""
    path = folder / SETTINGS_FILE
    hint = "name the folder of a run of cmap benchmark or cmap attack"
    document = read_document(path, BenchmarkDocument, UsageError, hint)
    try:
        msgspec.convert(document.settings, JudgedSettings)
    except UNDECODABLE as error:
        raise UsageError(f"{path} is damaged or of another program: {error} in its settings", hint) from error
    return document
