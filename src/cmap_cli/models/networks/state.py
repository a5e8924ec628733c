"""Stored consistency networks: a typed description, a state dict, and the checks of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from torch import Tensor, nn

from cmap_cli.core.types import ConsistencyModel
from cmap_cli.errors import WeightsError
from cmap_cli.runs.documents import UNDECODABLE

SHOWN = 3
Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e6)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, lt=1e6)]


class Stored(ConsistencyModel, Protocol):
    """A consistency model that :func:`cmap_cli.models.store.save_model` can write."""

    def description(self) -> dict[str, object]:
        """The description from which the network is built, in types of JSON; ``kind`` names its family."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are written to the file, in the precision of the file."""
        ...


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields that the description of every family has.

    Attributes:
        kind: the name of the family.
        sigma_min: t_min, where f is the identity.
        sigma_max: t_max, the level of the prior.
    """

    kind: str
    sigma_min: Positive
    sigma_max: Positive

    def __post_init__(self) -> None:
        """Refuse noise levels in the wrong order (ValueError, which msgspec reports)."""
        if not self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")


D = TypeVar("D", bound=Description)


def typed(description: Mapping[str, Any], family: type[D]) -> D:
    """The description as the type of its family (WeightsError for a wrong, missing or unknown field)."""
    try:
        return msgspec.convert(dict(description), family)
    except UNDECODABLE as error:
        kind = str(description.get("kind"))[:40]
        raise WeightsError(
            f"the description of the {kind} network is wrong: {error}", "the file is damaged or of another version"
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network, which may lie on the meta device, with these weights; errors as :func:`check_tensors`."""
    check_tensors(tensors, {key: tuple(value.shape) for key, value in network.state_dict().items()})
    network.load_state_dict(dict(tensors), assign=True)
    return network


def check_tensors(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare a checkpoint with the names and shapes of the network it should fill.

    Raises:
        WeightsError: names are missing or unexpected, shapes are wrong, or values are not finite floats.
    """
    check_shapes(state, expected)
    check_values(state)


def check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare names and shapes alone, as :func:`check_tensors` does."""
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


def check_values(state: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not floating point or not finite (WeightsError)."""
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
