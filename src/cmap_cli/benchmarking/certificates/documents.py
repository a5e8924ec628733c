"""The files and JSON documents of ``cmap certify``, typed: what is decoded has these fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from cmap_cli.errors import UsageError
from cmap_cli.runs.documents import Document, read_document
from cmap_cli.runs.settings import CERTIFY_FILE

CERTIFY_SCHEMA = "cmap.certify-run/1"


class RadiusDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision for one radius: certified, refuted (sequential only), undecided, or out of reach of the samples."""

    radius: float
    decision: Literal["certified", "refuted", "undecided", "out of reach"]


class CertificateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of records.jsonl of ``cmap certify`` ("cmap.certificate/1"): one image with one noise level.

    Attributes:
        image: number of the image in the data set of the run, from 0.
        index: number of the image in the whole data set.
        key: stable name of the image, "cifar10/test/17".
        label: class of the image.
        sigma: standard deviation of the noise, for images in [0, 1].
        selected: the most frequent class of the first samples.
        predicted: the class of the smoothed classifier; None if it abstains.
        radius: certified ℓ2 radius around the image; 0 if it abstains.
        correct: whether ``predicted`` is the label.
        lower: lower bound of the probability of ``selected`` under noise; wrong with probability at most alpha.
        successes: number of later samples with the class ``selected``.
        trials: number of later samples.
        decisions: decision for each requested radius, for the class ``selected``.
        seconds: time of this image.
    """

    image: int
    index: int
    key: str
    label: int
    sigma: float
    selected: int
    predicted: int | None
    radius: float
    correct: bool
    lower: float
    successes: int
    trials: int
    decisions: tuple[RadiusDecision, ...]
    seconds: float

    def holds_at(self, radius: float) -> bool:
        """Whether the certificate covers a radius and the class is right."""
        return self.correct and self.radius >= radius


class CertifyDocument(Document, frozen=True, kw_only=True):
    """certify.json: the settings of a run of ``cmap certify``, and its provenance.

    Attributes:
        settings: everything that determines the records; a run continues only with equal settings.
        provenance: versions, device, weights and command line of the first start.
    """

    schema: Literal["cmap.certify-run/1"]
    settings: dict[str, Any]
    provenance: dict[str, Any] = msgspec.field(default_factory=dict)


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """A share of the images.

    Attributes:
        count: number of images that are counted.
        n: number of all images.
        value: count / n.
        low: lower end of the Wilson 95 % interval.
        high: upper end of this interval.
    """

    count: int
    n: int
    value: float
    low: float
    high: float


class RadiusResult(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a run for one radius with one noise level.

    Attributes:
        radius: ℓ2, for images in [0, 1].
        linf: largest ℓ∞ change that is always inside the radius, radius / √d, in units of 1/255; None for images of
            several sizes.
        certified: share of images whose certificate covers the radius and whose class is right.
        set_low: lower bound of the true share on these images, all certificates together.
        undecided: number of images without a decision for this radius.
    """

    radius: float
    linf: float | None
    certified: Share
    set_low: float
    undecided: int


class SigmaResult(msgspec.Struct, frozen=True, kw_only=True):
    """The results of a run for one noise level.

    Attributes:
        sigma: standard deviation of the noise, for images in [0, 1].
        images: number of images that have records.
        abstained: number of images for which the classifier abstains.
        wrong: number of images with a wrong class.
        radii: results for the requested radii.
        curve: (radius, share of images that are certified and right) at each step of the curve.
        mean_samples: mean number of samples per image, including those that choose the class.
        seconds: mean time per image.
    """

    sigma: float
    images: int
    abstained: int
    wrong: int
    radii: tuple[RadiusResult, ...]
    curve: tuple[tuple[float, float], ...]
    mean_samples: float
    seconds: float


class OtherCurve(msgspec.Struct, frozen=True, kw_only=True):
    """Certificates of another program, from a file with the columns of Cohen's program.

    Attributes:
        name: name from the user, or the name of the file.
        images: number of lines of the file.
        shares: share of images that are certified and right, for each requested radius.
        curve: as in :class:`SigmaResult`.
    """

    name: str
    images: int
    shares: tuple[float, ...]
    curve: tuple[tuple[float, float], ...]


class CertificateReport(Document, frozen=True, kw_only=True):
    """report.json of ``cmap certify``: certified accuracy by noise level and radius.

    Attributes:
        complete: whether every image has a record for every noise level.
        sentence: the result in a sentence.
        confidence: confidence of ``set_low``.
        results: results, one per noise level.
        limits: sentences about what the numbers do not show.
        settings: settings of the run.
        provenance: provenance of the run.
        others: certificates of other programs, to compare with.
    """

    schema: str = "cmap.certificate-report/1"
    complete: bool
    sentence: str
    confidence: float
    results: tuple[SigmaResult, ...]
    limits: tuple[str, ...]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    others: tuple[OtherCurve, ...] = ()


class CertifyOutput(Document, frozen=True, kw_only=True):
    """What ``cmap certify --json`` prints: the report, and the thresholds that it misses."""

    schema: str = "cmap.certify/1"
    exit_code: int
    out: str
    missed: tuple[str, ...] = ()
    report: CertificateReport


class CertifyShardOutput(Document, frozen=True, kw_only=True):
    """What ``cmap certify --shard --json`` prints."""

    schema: str = "cmap.certify/1"
    exit_code: int
    out: str
    shard: str
    records: str


class CertifyDryRunOutput(Document, frozen=True, kw_only=True):
    """What ``cmap certify --dry-run --json`` prints.

    Attributes:
        settings: settings of the run.
        seconds: estimated time, if every image needs the fewest samples and if every image needs the most.
        chosen: ``n`` and ``samples`` that ``--budget`` chose.
    """

    schema: str = "cmap.certify/1"
    dry_run: Literal[True] = True
    settings: dict[str, Any]
    seconds: tuple[float, float]
    chosen: dict[str, int] = msgspec.field(default_factory=dict)


class NeededSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in certify.json that a report needs."""

    dataset: str
    n: Annotated[int, msgspec.Meta(ge=1)]
    sigma: Annotated[tuple[Annotated[float, msgspec.Meta(gt=0)], ...], msgspec.Meta(min_length=1)]
    radius: Annotated[tuple[Annotated[float, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=1)]
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    selection: int
    procedure: str
    image_shape: tuple[int, ...] = ()


def read_certify(folder: Path) -> CertifyDocument:
    """The settings and provenance of a run (UsageError: the file is missing, damaged or of another program)."""
    path, hint = folder / CERTIFY_FILE, "name the folder of a run of cmap certify"
    found = read_document(path, CertifyDocument, UsageError, hint)
    try:
        msgspec.convert(found.settings, NeededSettings)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path} is damaged or of another program: {error}", hint) from error
    return found
