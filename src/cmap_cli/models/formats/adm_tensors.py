"""Whether a state dict is that of a network: its keys, its shapes, finite floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from cmap_cli.errors import WeightsError

SHOWN = 3


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare a checkpoint with the keys and shapes of the network it should fill.

    Raises:
        WeightsError: keys are missing, unexpected or mis-shaped, or values are not finite floats.
    """
    _refuse("lacks", (key for key in expected if key not in state))
    _refuse("has the unexpected", (key for key in state if key not in expected))
    _refuse(
        "has the wrong shapes",
        (
            f"{key} {list(state[key].shape)} instead of {list(shape)}"
            for key, shape in expected.items()
            if tuple(state[key].shape) != tuple(shape)
        ),
    )
    _refuse("has numbers that are no floats in", (key for key, value in state.items() if not value.is_floating_point()))
    _refuse("has values that are not finite in", (key for key, value in state.items() if not value.isfinite().all()))


def _refuse(verb: str, found: Iterable[str]) -> None:
    keys = list(found)
    if keys:
        more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
        raise WeightsError(
            f"the checkpoint {verb} {', '.join(keys[:SHOWN])}{more}",
            "the file is damaged, or it is the checkpoint of another network",
        )
