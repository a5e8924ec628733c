"""Published classifiers: from the content of a checkpoint to the state dict of the network alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import tensor_files
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.networks.classifiers import build_classifier

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")
"""Entries under which training scripts store the weights, among epochs and optimiser states. Where averaged weights
are stored too, these names hold the averaged ones, with which the published accuracies were measured."""

WRAPPERS = ("module.", "model.", "0.", "1.")
"""What DataParallel, the attacker of the `robustness` library and nn.Sequential put before every name."""

NOT_THE_NETWORK = re.compile(
    r"attacker\..+"  # a second name for the same weights, in files of the `robustness` library
    r"|((0|normali[sz]er?|normali[sz]ation)\.)?(mean|std|mu|sigma|new_mean|new_std)"
)
"""Entries of a wrapper. The normalisation belongs to the architecture or the manifest, not to the file."""


def read_pickled_classifier(path: Path, artefact: Artefact) -> Converted:
    """A classifier of the artefact's architecture in a file of torch.save; errors as :func:`convert_classifier`."""
    return convert_classifier(unwrap(tensor_files.read_pickle(path)), artefact)


def read_safetensors_classifier(path: Path, artefact: Artefact) -> Converted:
    """A classifier of the artefact's architecture in a safetensors file; errors as :func:`convert_classifier`."""
    return convert_classifier(tensor_files.read_safetensors(path), artefact)


def convert_classifier(state: Mapping[str, Tensor], artefact: Artefact) -> Converted:
    """A classifier's state dict, if its names and shapes are those of the architecture (WeightsError)."""
    with torch.device("meta"):
        network = build_classifier(artefact.architecture, artefact.classes)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise WeightsError(
            f"the file is not a {artefact.architecture}: {name} is {found.get(name, 'missing')} in it and "
            f"{expected.get(name, 'missing')} in the network ({len(wrong)} such differences)"
        )
    tensors = {key: value.contiguous() for key, value in state.items()}
    return Converted({"kind": artefact.architecture}, tensors, layout_sha256(found))


def unwrap(document: object) -> dict[str, Tensor]:
    """The state dict of a checkpoint in the names of the network itself.

    Args:
        document: what ``torch.load(path, weights_only=True)`` returned: a state dict or a training checkpoint.

    Returns:
        Names and tensors. Counters of batches, which files from before PyTorch 0.4.1 lack, are added as zeros.

    Raises:
        WeightsError: there is no state dict in it.
    """
    state = find_state(document)
    prefix: str | None = ""
    while prefix is not None:
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        state = {name: tensor for name, tensor in state.items() if not NOT_THE_NETWORK.fullmatch(name)}
        prefix = next((wrapper for wrapper in WRAPPERS if state and all(n.startswith(wrapper) for n in state)), None)
    if not state:
        raise no_state_dict("only the normalisation of a classifier")
    for name in [name for name in state if name.endswith(".running_var")]:
        state.setdefault(name.removesuffix("running_var") + "num_batches_tracked", torch.tensor(0))
    return state


def find_state(document: object) -> dict[str, Tensor]:
    """The first mapping of names to tensors in a checkpoint, looked for under the usual names."""
    if not isinstance(document, Mapping):
        raise no_state_dict(f"a {type(document).__name__}")
    tensors = {name: value for name, value in document.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors and len(tensors) == len(document):
        return tensors
    for container in CONTAINERS:
        if isinstance(document.get(container), Mapping):
            return find_state(document[container])
    entries = ", ".join(str(key) for key in list(document)[:5]) or "nothing"
    raise no_state_dict(f"a dictionary of {entries}")


def no_state_dict(found: str) -> WeightsError:
    """The error for a file that holds something else."""
    return WeightsError(
        f"the checkpoint holds {found}, not the weights of a network",
        f"it must be a state dict, or a dictionary that has one under {', '.join(CONTAINERS)}",
    )
