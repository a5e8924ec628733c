"""The convolutional layers of a torchvision classifier, which LPIPS uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.formats.tensor_files import read_pickle

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact


def read(path: Path, artefact: Artefact) -> Converted:
    """The layers called ``features`` of a torchvision classifier's state dict (WeightsError if it has none)."""
    state = unwrap(read_pickle(path))
    features = {k.removeprefix("features."): v.contiguous() for k, v in state.items() if k.startswith("features.")}
    if not features:
        raise WeightsError(f"the file of {artefact.name} has no layers called features")
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Converted({"kind": f"lpips-{artefact.architecture}"}, features, layout_sha256(shapes))
