"""Purification behind the interface of ART's preprocessors (adversarial-robustness-toolbox, which may be missing)."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from cmap_cli.core.types import ConsistencyModel
from cmap_cli.errors import UsageError
from cmap_cli.purify.images import Purify
from cmap_cli.purify.settings import PurifySettings

Array = np.ndarray[Any, Any]


class ArtPreprocessor:
    """A defence for the argument ``preprocessing_defences`` of ART's estimators.

    Gradients pass as the identity (BPDA), so that attacks of ART run through it. Measure robustness with
    :func:`cmap_cli.benchmark`, which also differentiates the purification itself.

    Args:
        settings: of the purification.
        model: see :class:`~cmap_cli.purify.images.Purify`.
        channels_first: whether arrays are (N, C, H, W), as in ART's PyTorch estimators, or (N, H, W, C).
        clip_values: the smallest and the largest value of a pixel.
        apply_fit: whether training images are purified.
        apply_predict: whether images are purified before prediction.
        options: fields of :class:`~cmap_cli.purify.settings.PurifySettings`.
    """

    params = ("channels_first", "clip_values", "apply_fit", "apply_predict")

    def __init__(
        self,
        settings: PurifySettings | None = None,
        *,
        model: str | ConsistencyModel | None = None,
        channels_first: bool = True,
        clip_values: tuple[float, float] = (0.0, 1.0),
        apply_fit: bool = False,
        apply_predict: bool = True,
        **options: Any,
    ) -> None:
        low, high = clip_values
        if not low < high:
            raise UsageError(f"clip_values are {clip_values}", "give the smallest and the largest value of a pixel")
        self.purify = Purify(settings, model=model, **options)
        self.channels_first = channels_first
        self.clip_values = clip_values
        self.apply_fit = apply_fit
        self.apply_predict = apply_predict
        self.is_fitted = True
        with suppress(ModuleNotFoundError):  # ART takes instances of its own class only
            import_module("art.defences.preprocessor.preprocessor").Preprocessor.register(type(self))

    def __call__(self, x: Array, y: Any = None) -> tuple[Array, Any]:
        """Purify a batch of images; labels are returned as they are."""
        low, high = self.clip_values
        unit = np.clip((np.asarray(x) - low) / (high - low), 0, 1).astype(np.float32)
        last = np.moveaxis(unit, 1, -1) if self.channels_first else unit
        purified = self.purify(last)
        placed = np.moveaxis(purified, -1, 1) if self.channels_first else purified
        return (placed * (high - low) + low).astype(x.dtype), y

    def fit(self, x: Array, y: Any = None, **_: Any) -> None:
        """Nothing is fitted."""

    def estimate_gradient(self, x: Array, grad: Array) -> Array:
        """The gradient with respect to the input from that with respect to the output: the same (BPDA)."""
        return grad
