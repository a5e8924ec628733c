"""Purify images in memory: :func:`purify_images`, and the transform :class:`Purify`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from cmap_cli.core.types import ConsistencyModel, Step
from cmap_cli.data.images import to_channels, to_uint8
from cmap_cli.errors import raise_all
from cmap_cli.purify.conversions import Pixels, unpack
from cmap_cli.purify.estimate import with_batches
from cmap_cli.purify.events import OnProgress, Progress
from cmap_cli.purify.job import (
    ImageInWork,
    Jobs,
    Prediction,
    assemble_image,
    begin,
    condition_image,
    image_prediction,
    purify_patches,
)
from cmap_cli.purify.prepare import prepare_purify
from cmap_cli.purify.settings import PurifySettings, with_options

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PurifiedImages(Generic[T]):
    """Purified images.

    Attributes:
        images: of the type, number of channels and, unless the fit resizes or crops, the shape of what was given.
        predictions: classes of each image before and after purification; None without a classifier.
        logits: of the K candidates of each image, (K, classes); None without a classifier.
        candidates: the K candidates of each image, (K, C, H, W) in [0, 1] with the channels of the model; None unless
            ``keep_candidates`` was given.
    """

    images: T
    predictions: tuple[Prediction, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    candidates: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One image of the result."""

    pixels: Pixels
    prediction: Prediction | None
    logits: Tensor | None
    candidates: Tensor | None


class Purify:
    """Purification as a transform for torchvision pipelines: image in, purified image out. Models are loaded once.

    The result has the type of the input, see :func:`purify_images`. No gradient passes.

    Args:
        settings: of the purification.
        model: name of a consistency model, or a frozen one; a module is moved to the device.
        classifier: name of a classifier, or a module that maps images in [0, 1] to logits; it is moved to the device
            and set to evaluation.
        options: fields of :class:`~cmap_cli.purify.settings.PurifySettings`, instead of those of ``settings``.

    Raises:
        UsageError: an option is wrong.
    """

    def __init__(
        self,
        settings: PurifySettings | None = None,
        *,
        model: str | ConsistencyModel | None = None,
        classifier: str | nn.Module | None = None,
        **options: Any,
    ) -> None:
        self.model = None if isinstance(model, str) else model
        self.classifier = None if isinstance(classifier, str) else classifier
        if model is not None:
            options["model"] = model if isinstance(model, str) else type(model).__name__
        if classifier is not None:
            options["classifier"] = classifier if isinstance(classifier, str) else type(classifier).__name__
        self.settings = with_options(settings, options)
        raise_all(self.settings.problems())
        self._loaded: Jobs | None = None

    def __repr__(self) -> str:
        """The settings that differ from the defaults."""
        defaults = dataclasses.asdict(PurifySettings())
        given = dataclasses.asdict(self.settings)
        changed = (f"{name}={value!r}" for name, value in given.items() if value != defaults[name])
        return f"{type(self).__name__}({', '.join(changed)})"

    def __getstate__(self) -> dict[str, Any]:
        """Without what was loaded: each worker process of a DataLoader loads its own."""
        return {**self.__dict__, "_loaded": None}

    def __call__(self, images: T) -> T:
        """Purify an image, a batch or a list."""
        return self.purify(images).images

    def load(self, size: tuple[int, int] | None = None) -> Jobs:
        """How images are treated; loads the models at the first call.

        Args:
            size: (height, width) of an image, on which a classifier is tried where the model takes any size.
        """
        if self._loaded is None:
            model, classifier = self.model, self.classifier
            self._loaded = prepare_purify(
                self.settings, self.settings.device, model=model, classifier=classifier, size=size
            ).jobs
        return self._loaded

    def purify(
        self, images: T, *, keep_candidates: bool = False, on_progress: OnProgress | None = None
    ) -> PurifiedImages[T]:
        """Purify an image, a batch or a list; the result has the predictions, too. See :func:`purify_images`."""
        unpacked = unpack(images)
        sizes = [(image.colour.shape[-2], image.colour.shape[-1]) for image in unpacked.images]
        jobs = self.load(sizes[0] if sizes else None)
        job, kept = jobs.last, [dataclasses.replace(job, keep_candidates=keep_candidates) for job in jobs.each]
        sized = with_batches(Jobs(tuple(kept)), sizes, self.settings.batch_size)
        works = [begin(sized, to_channels(image.colour, job.channels), image.alpha) for image in unpacked.images]
        for work in works:
            condition_image(work)
        rounds = {id(work): image.rounds for work, image in zip(works, unpacked.images, strict=True)}
        outcomes = {id(work): complete(work, rounds=rounds[id(work)]) for work in purify_in_batches(works, on_progress)}
        done = [outcomes[id(work)] for work in works]
        return PurifiedImages(
            unpacked.pack([outcome.pixels for outcome in done]),
            tuple(outcome.prediction for outcome in done if outcome.prediction) if job.classifier else None,
            tuple(outcome.logits for outcome in done if outcome.logits is not None) if job.classifier else None,
            tuple(outcome.candidates for outcome in done if outcome.candidates is not None)
            if keep_candidates
            else None,
        )


def purify_images(
    images: T,
    settings: PurifySettings | None = None,
    *,
    model: str | ConsistencyModel | None = None,
    classifier: str | nn.Module | None = None,
    keep_candidates: bool = False,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> PurifiedImages[T]:
    """Purify images in memory; the result has the type of the input.

    Args:
        images: a PIL image (L, LA, RGB, RGBA); a NumPy array (H, W, C) or (N, H, W, C), or a tensor (C, H, W) or
            (N, C, H, W), of 1 or 3 channels, floats in [0, 1] or uint8; or a list or tuple of such images.
        settings: of the purification.
        model: name of a consistency model, or a frozen one; a module is moved to the device.
        classifier: name of a classifier, or a module that maps images in [0, 1] to logits; it is moved to the device
            and set to evaluation.
        keep_candidates: whether the result has the K candidates of each image.
        on_progress: called with :class:`~cmap_cli.purify.events.Progress` at every step and image.
        options: fields of :class:`~cmap_cli.purify.settings.PurifySettings`, instead of those of ``settings``.

    Raises:
        UsageError: an option is wrong, or the images are of another type or have values outside [0, 1].
        WeightsError: weights are missing.
    """
    purify = Purify(settings, model=model, classifier=classifier, **options)
    return purify.purify(images, keep_candidates=keep_candidates, on_progress=on_progress)


def purify_in_batches(works: list[ImageInWork], on_progress: OnProgress | None) -> Iterator[ImageInWork]:
    """Purify the patches of all images in batches of one job and size; yields each image when it is done.

    Args:
        works: the images.
        on_progress: see :func:`purify_images`.
    """
    queues: dict[tuple[str, tuple[int, int]], list[tuple[ImageInWork, Tensor]]] = {}
    for work in works:
        queues.setdefault((work.job.model, work.plan.size), []).extend((work, patch) for patch in work.patches)
    done = 0

    def on_step(step: Step) -> None:
        if on_progress is not None:
            on_progress(Progress(len(works), done, step=step))

    for (_, size), queue in queues.items():
        job = queue[0][0].job
        for start in range(0, len(queue), job.batch_size(size)):
            batch = queue[start : start + job.batch_size(size)]
            for work in purify_patches(job, batch, None if on_progress is None else on_step):
                done += 1
                yield work
                if on_progress is not None:
                    on_progress(Progress(len(works), done))


def complete(work: ImageInWork, *, rounds: bool) -> Outcome:
    """The result of an image all of whose patches are purified; ``rounds`` as it will be rounded to 8 bits."""
    finished, job = assemble_image(work), work.job
    after = to_uint8(finished.pixels).float() / 255 if rounds else finished.pixels
    work.candidates.clear()
    candidates = finished.candidates if job.keep_candidates else None
    return Outcome(Pixels(after, finished.alpha), image_prediction(job, finished, after), finished.logits, candidates)
