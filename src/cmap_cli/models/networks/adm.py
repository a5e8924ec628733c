"""OpenAI's ADM U-Net as a consistency model; the backbone is diffusers' UNet2DModel, an optional dependency."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmap_cli.core.consistency import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, c_in, c_noise, c_out, c_skip
from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.networks.state import Description, Positive, fill, typed

KIND = "adm"
LARGEST = {"layers_per_block": 64, "sample_size": 4096, "in_channels": 64, "num_class_embeds": 1_000_000}
"""Largest numbers of a configuration; a file with larger ones is damaged or hostile."""

TIME_SCALE = 1000
"""The backbone's sinusoidal embedding expects diffusion steps, 0…1000: it gets 1000·c_noise."""

REQUIRED = {
    "_class_name": "UNet2DModel",
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "class_embed_type": None,
}
DEFAULTS: dict[str, Any] = {
    "time_embedding_type": "positional",
    "center_input_sample": False,
    "in_channels": 3,
    "out_channels": 3,
}
"""Defaults of UNet2DModel, for entries that a configuration leaves out."""


class ADMDescription(Description, frozen=True, kw_only=True):
    """The description that is stored with the tensors of an ADM model.

    Attributes:
        unet: the configuration of UNet2DModel as its config.json has it.
        sigma_data: standard deviation of the data.
    """

    kind: Literal["adm"]
    unet: dict[str, Any]
    sigma_min: Positive = SIGMA_MIN
    sigma_max: Positive = SIGMA_MAX
    sigma_data: Positive = SIGMA_DATA


class ADMConsistency(nn.Module):
    """f(x, t) = c_skip(t)·x + c_out(t)·F(c_in(t)·x, 1000·¼·ln t); f(x, t_min) = x (arXiv 2303.01469, eq. 5).

    Args:
        description: the fields of :class:`ADMDescription`.

    Raises:
        WeightsError: diffusers is not installed, or the configuration is not one of a consistency model.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        fields = typed({"kind": KIND, **description}, ADMDescription)
        config = fields.unet
        self.image_shape = _image_shape(config)
        self.sigma_min = fields.sigma_min
        self.sigma_max = fields.sigma_max
        self.sigma_data = fields.sigma_data
        self.num_classes: int = config.get("num_class_embeds") or 0
        self.unet = _backbone(config)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """f(x, t) in float32, under autocast too.

        Args:
            x: (N, C, H, W), data in [-1, 1] plus noise.
            sigma: t in [sigma_min, sigma_max], (N,).
            labels: int64 in [0, num_classes), (N,); None exactly when the model is unconditional.

        Raises:
            ValueError: labels are missing, or the model has no classes.
        """
        if (labels is None) == bool(self.num_classes):
            given = "without" if labels is None else "with"
            raise ValueError(f"a model of {self.num_classes} classes was called {given} labels")
        x, sigma = x.float(), sigma.float()
        level = sigma[:, None, None, None]
        steps = TIME_SCALE * c_noise(sigma + 1e-44)  # finite at t = 0
        (out,) = self.unet(c_in(level, self.sigma_data) * x, steps, labels, return_dict=False)
        estimate: Tensor = out.float()
        return (
            c_skip(level, self.sigma_min, self.sigma_data) * x
            + c_out(level, self.sigma_min, self.sigma_data) * estimate
        )


def build_adm(description: Mapping[str, Any]) -> ADMConsistency:
    """A model without storage, for ``load_state_dict(tensors, strict=True, assign=True)`` (errors of the class).

    On the meta device 300 million parameters cost no memory and no random numbers; the backbone has no buffers.
    """
    with torch.device("meta"):
        return ADMConsistency(description)


def restore(description: Mapping[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The model of a stored description, with its weights (WeightsError)."""
    return fill(build_adm(description), tensors)


def _image_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of a configuration that passes the checks."""
    config = DEFAULTS | dict(config)
    for key, value in REQUIRED.items():
        if config.get(key) != value:
            raise WeightsError(
                f"the network is no consistency model: its {key} is {config.get(key)!r}, not {value!r}",
                "give an ADM consistency model of OpenAI or its port to diffusers",
            )
    for key, most in LARGEST.items():
        if isinstance(config.get(key), int) and not 0 < config[key] <= most:
            raise WeightsError(f"the network's configuration has the {key} {config[key]}, not 1 to {most}")
    channels, size = config["in_channels"], config.get("sample_size")
    if channels != config["out_channels"]:
        raise WeightsError(
            f"the network is no consistency model: it maps {channels} channels to {config['out_channels']}",
            "models that also predict a variance are diffusion models",
        )
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if not isinstance(height, int) or not isinstance(width, int):
        raise WeightsError(f"the network's configuration does not say the image size: sample_size is {size!r}")
    return channels, height, width


def _backbone(config: Mapping[str, Any]) -> nn.Module:
    """UNet2DModel(config)."""
    try:
        diffusers = import_module("diffusers")  # not an import statement: mypy would read all of it
    except ModuleNotFoundError as error:
        raise WeightsError("this model's network needs diffusers", pip_install("diffusers")) from error
    try:
        unet: nn.Module = diffusers.UNet2DModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    except Exception as error:  # whatever diffusers and torch raise for a configuration that fits nothing
        reason = str(error).split("\n", maxsplit=1)[0]
        raise WeightsError(f"diffusers {diffusers.__version__} cannot build the network: {reason}") from error
    return unet
