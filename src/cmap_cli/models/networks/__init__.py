"""Consistency networks by kind, and classifier networks by architecture (:mod:`.classifiers`).

A new family of consistency networks is one module, with a ``KIND`` and a function ``restore``, and one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from cmap_cli.models.networks import adm, gaussian, ncsnpp, photo, unet


class Family(Protocol):
    """A module of this package.

    Attributes:
        KIND: the entry ``kind`` in the descriptions of its networks.
    """

    @property
    def KIND(self) -> str: ...  # noqa: N802  # a constant of the module

    def restore(self, description: Mapping[str, Any], tensors: dict[str, Tensor], /) -> nn.Module:
        """The network of a stored description, with its weights.

        Raises:
            WeightsError: a field or a tensor is missing, superfluous, or not of its type, shape or range.
        """
        ...


FAMILIES: tuple[Family, ...] = (gaussian, unet, photo, ncsnpp, adm)
