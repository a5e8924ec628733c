"""The documents of ``cmap purify``: a line of manifest.jsonl, and what --json prints."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from cmap_cli.purify.summary import Summary
from cmap_cli.runs.documents import Document

SCHEMA = "cmap.purify/1"


class Origin(Struct, frozen=True, kw_only=True):
    """The fields of a record that say which bytes it was made from.

    Attributes:
        source: path of the input, with the array's name and the number in it.
        source_bytes: size of its file.
        source_mtime_ns: when its file was last changed.
    """

    source: str
    source_bytes: int
    source_mtime_ns: int

    @property
    def version(self) -> tuple[int, int]:
        """Size and time of change, which tell whether the file has changed since."""
        return self.source_bytes, self.source_mtime_ns


class ImageRecord(Origin, frozen=True, kw_only=True):
    """A line of manifest.jsonl: one image that was purified.

    Attributes:
        output: path of the result below the output folder.
        width: of the result, pixels.
        height: of the result, pixels.
        model: that purified it.
        method: optimise or denoise.
        fit: how the image was fitted to the model's size: exact, tile, resize or crop.
        tiles: patches of the model's size that were purified.
        seed: of the latents.
        label: class given to a class-conditional model.
        num_latents: latents per image (K).
        steps: optimisation steps, 0 of denoising alone.
        objective: the final objective, summed over the latents, mean over tiles; null where nothing was optimised, as
            are its terms.
        pixel_term: its pixel term before the weight.
        perceptual_term: its perceptual term before the weight.
        latent_term: its latent term before the weight.
        l1: mean absolute difference of result and input, in [0, 1].
        psnr: PSNR of result and input in dB; null if they are equal.
        ssim: mean SSIM of result and input.
        vote: class by the vote of the candidates; this and the next two with a classifier.
        before: class of the input.
        after: class of the result.
        seconds: the image's share of the time of its batches.
    """

    output: str
    width: int
    height: int
    model: str
    method: str
    fit: str
    tiles: int
    seed: int
    label: int | UnsetType = UNSET
    num_latents: int
    steps: int
    objective: float | None
    pixel_term: float | None
    perceptual_term: float | None
    latent_term: float | None
    l1: float
    psnr: float | None
    ssim: float
    vote: str | UnsetType = UNSET
    before: str | UnsetType = UNSET
    after: str | UnsetType = UNSET
    seconds: float


class RunDocument(Document, frozen=True, kw_only=True):
    """run.json: the settings of a run of ``cmap purify``; it resumes only with equal ones."""

    schema: str = "cmap.run/1"
    settings: dict[str, Any]


class FailedImage(Struct, frozen=True, kw_only=True):
    """An image that could not be purified.

    Attributes:
        source: path of the input.
        error: why.
    """

    source: str
    error: str


class PurifyCost(Struct, frozen=True, kw_only=True):
    """The estimated cost of a run.

    Attributes:
        patches: of the model's size, in all images that are not done yet.
        low: seconds that they take at least, probably, and at most in ``high``.
        high: see ``low``.
        already_there: images that earlier runs have purified.
    """

    patches: int
    low: float
    high: float
    already_there: int


class DryRunDocument(Document, frozen=True, kw_only=True):
    """What ``cmap purify --dry-run --json`` prints.

    Attributes:
        dry_run: true.
        settings: the settings that run.json would contain.
        estimate: the estimated cost of the run.
    """

    schema: str = SCHEMA
    dry_run: bool = True
    settings: dict[str, Any]
    estimate: PurifyCost


class PurifyDocument(Document, frozen=True, kw_only=True):
    """What ``cmap purify --json`` prints.

    Attributes:
        exit_code: of the command.
        settings: the settings in run.json.
        out: the output folder.
        manifest: file with a line for each image.
        shard: what part of the job this was, as "2/4"; null for all of it.
        written: images purified by this run.
        already_there: images purified by earlier runs.
        failed: images that could not be purified.
        failures: the first 1,000 of these.
        seconds: the run took.
        summary: counts and means over all images of the manifest.
    """

    schema: str = SCHEMA
    exit_code: int
    settings: dict[str, Any]
    out: str
    manifest: str
    shard: str | None
    written: int
    already_there: int
    failed: int
    failures: tuple[FailedImage, ...]
    seconds: float
    summary: Summary
