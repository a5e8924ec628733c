"""The method of CMAP: tensors and frozen dataclasses in and out; no files, no network, no printing."""

from cmap_cli.core.predict import classify, hard_vote, select, soft_vote
from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PRESETS, PurifyConfig, preset_for
from cmap_cli.core.similarity import LPIPS, SSIM
from cmap_cli.core.types import Classifier, ConsistencyModel, Purification

__all__ = [
    "LPIPS",
    "PRESETS",
    "SSIM",
    "Classifier",
    "ConsistencyModel",
    "Purification",
    "Purifier",
    "PurifyConfig",
    "classify",
    "hard_vote",
    "image_generators",
    "preset_for",
    "select",
    "soft_vote",
]
