"""Types of the JSON documents that belong to no other package."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from cmap_cli.benchmarking.certificates.documents import CertificateReport
from cmap_cli.benchmarking.compare import Comparison
from cmap_cli.purify.documents import FailedImage
from cmap_cli.purify.summary import Summary
from cmap_cli.runs.documents import Document


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One error, and a hint of what to type next."""

    error: str
    hint: str


class ErrorDocument(Document, frozen=True, kw_only=True):
    """What every command prints with ``--json`` if it fails without a result."""

    schema: str = "cmap.error/1"
    exit_code: int
    errors: tuple[Problem, ...]


class ListedName(msgspec.Struct, frozen=True, kw_only=True):
    """A name that an option takes."""

    name: str
    about: str


class ListDocument(Document, frozen=True, kw_only=True):
    """What ``cmap list --json`` prints: the one list that was asked for."""

    schema: str = "cmap.list/1"
    models: tuple[ListedName, ...] | UnsetType = UNSET
    classifiers: tuple[ListedName, ...] | UnsetType = UNSET
    attacks: tuple[ListedName, ...] | UnsetType = UNSET
    datasets: tuple[ListedName, ...] | UnsetType = UNSET


class BenchmarkOutput(Document, frozen=True, kw_only=True):
    """What ``cmap benchmark --json`` prints: the report, and the conditions of the user that it fails."""

    schema: str = "cmap.benchmark-result/1"
    exit_code: int
    out: str
    missed: tuple[str, ...] = ()
    comparison: Comparison | UnsetType = UNSET
    report: dict[str, Any]


class MergedParts(Document, frozen=True, kw_only=True):
    """What the parts of a run add up to.

    Attributes:
        exit_code: of the command.
        command: that wrote the parts: purify, attack, benchmark or certify.
        out: folder of the whole.
        there: number of finished images; for an attack or benchmark number of finished tasks (an image under one
            attack, or clean).
        listed: number of all images or tasks; null if no part contains it.
        missing: what is missing, one sentence for each thing.
        failed: number of images that could not be processed.
        failures: the first 1,000 failures.
    """

    exit_code: int
    command: str
    out: str
    there: int
    listed: int | None
    missing: tuple[str, ...]
    failed: int
    failures: tuple[FailedImage, ...]


class MergedBenchmarkOutput(MergedParts, frozen=True, kw_only=True):
    """What ``cmap merge --json`` prints for a benchmark.

    Attributes:
        missed: conditions of the user that the run fails, a sentence each.
        report: as of ``cmap benchmark --json``.
    """

    schema: str = "cmap.benchmark-result/1"
    missed: tuple[str, ...] = ()
    report: dict[str, Any]


class MergedCertifyOutput(MergedParts, frozen=True, kw_only=True):
    """What ``cmap merge --json`` prints for ``cmap certify``.

    Attributes:
        missed: thresholds of the user that the run misses, a sentence each.
        report: as of ``cmap certify --json``.
    """

    schema: str = "cmap.certify/1"
    missed: tuple[str, ...] = ()
    report: CertificateReport


class MergeDocument(MergedParts, frozen=True, kw_only=True):
    """What ``cmap merge --json`` prints for ``cmap purify`` and ``cmap attack``.

    Attributes:
        manifest: file with a line per image.
        summary: of purify.
        images: of an attack, and the counts below.
        success: number of images that deceive the classifier; ``success_defended`` counts for the defended classifier.
        png_success: the same for the PNG files; so is ``png_success_defended``.
    """

    schema: str = "cmap.merge/1"
    manifest: str
    summary: Summary | UnsetType = UNSET
    images: int | UnsetType = UNSET
    success: int | UnsetType = UNSET
    success_defended: int | UnsetType = UNSET
    png_success: int | UnsetType = UNSET
    png_success_defended: int | UnsetType = UNSET
