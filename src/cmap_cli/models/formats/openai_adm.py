"""OpenAI's ADM consistency models: the state dict of a ``.pt`` file -> ADMConsistency.

Names and numbering are those of cm/unet.py in openai/consistency_models. Settings that the shapes do not determine are
those of its scripts/launch.sh.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.adm_configs import ADM_CONFIGS, HEAD_CHANNELS, unet_config
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.formats.tensor_files import read_pickle
from cmap_cli.models.networks.adm import KIND, build_adm
from cmap_cli.models.networks.state import check_tensors

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact

FIRST_ATTENTION = 32
"""Pixels of the largest feature map that attends, in every published model."""

STEM = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
LEAVES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}
BLOCK = re.compile(r"(.+\.(?:resnets|attentions|downsamplers|upsamplers)\.\d+)\.(.+)")
UPSAMPLER = re.compile(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight")
QKV = ("to_q", "to_k", "to_v")


def read(path: Path, artefact: Artefact) -> Converted:
    """A file of torch.save with the network of the artefact's architecture; errors as :func:`convert_openai_adm`."""
    image_size = ADM_CONFIGS[artefact.architecture]["sample_size"]
    return convert_openai_adm(unwrap(read_pickle(path)), image_size=image_size)


def convert_openai_adm(
    state: Mapping[str, Tensor], *, image_size: int | None = None, head_channels: int = HEAD_CHANNELS
) -> Converted:
    """The tensors of an OpenAI checkpoint under ADMConsistency's names, in float32.

    Args:
        state: the loaded state dict.
        image_size: pixels; None: the level that first attends is at 32 pixels, as in every published model.
        head_channels: channels of an attention head.

    Raises:
        WeightsError: keys are missing, unexpected or mis-shaped, or values are not finite floats.
    """
    config = infer_config(state, image_size=image_size, head_channels=head_channels)
    description = {"kind": KIND, "unet": config}
    targets = {key: tuple(value.shape) for key, value in build_adm(description).state_dict().items()}
    sources = _sources(targets, config)
    expected = {sources[key]: _source_shape(key, shape) for key, shape in targets.items()}
    check_tensors(state, expected)
    tensors = {key: _part(key, state[sources[key]]).reshape(shape).float() for key, shape in targets.items()}
    return Converted(description, tensors, layout_sha256(expected))


def infer_config(
    state: Mapping[str, Tensor], *, image_size: int | None = None, head_channels: int = HEAD_CHANNELS
) -> dict[str, Any]:
    """UNet2DModel's configuration, from the names and shapes of an OpenAI state dict.

    Raises:
        WeightsError: they are not those of an ADM U-Net with residual up- and downsampling.
    """
    blocks = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    levels = 1 + sum(1 for key in state if UPSAMPLER.fullmatch(key))
    period = blocks // levels  # the residual blocks of a level and the one that resamples
    firsts = [f"input_blocks.{1 + level * period}" for level in range(levels)]
    attention = [f"{first}.1.qkv.weight" in state for first in firsts]
    try:
        widths = [state[f"{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
        embedding = state[f"{firsts[0]}.0.emb_layers.1.weight"].shape[0]
        channels = state["input_blocks.0.0.weight"].shape[1]
        num_classes = state["label_emb.weight"].shape[0] if "label_emb.weight" in state else None
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"the checkpoint is no consistency model of OpenAI's ADM family: {error} is missing",
            "give a .pt file of openai/consistency_models",
        ) from error
    return unet_config(
        image_size=image_size or FIRST_ATTENTION * 2 ** (attention.index(True) if any(attention) else 0),
        widths=widths,
        layers=period - 1,
        attention=attention,
        num_classes=num_classes,
        scale_shift=embedding == 2 * widths[0],
        head_channels=head_channels,
        channels=channels,
    )


def _sources(targets: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Our key -> OpenAI's key."""
    blocks = _blocks(config["layers_per_block"], [kind.startswith("Attn") for kind in config["down_block_types"]])
    sources = {}
    for key in targets:
        module, _, parameter = key.removeprefix("unet.").rpartition(".")
        inner = BLOCK.fullmatch(module)
        origin = f"{blocks[inner[1]]}.{LEAVES[inner[2]]}" if inner else STEM[module]
        sources[key] = f"{origin}.{parameter}"
    return sources


def _blocks(layers: int, attention: list[bool]) -> dict[str, str]:
    """UNet2DModel's name of a block -> OpenAI's, which numbers the blocks of all levels through.

    Attention at a level that has none, and resampling at the last level, get names too, which are not used.
    """
    blocks = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level, attends_up in enumerate(reversed(attention)):
        start = level * (layers + 1)
        for i in range(layers + 1):
            blocks[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{1 + start + i}.0"
            blocks[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{1 + start + i}.1"
            blocks[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{start + i}.0"
            blocks[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{start + i}.1"
        blocks[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{1 + start + layers}.0"
        blocks[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{start + layers}.{2 if attends_up else 1}"
    return blocks


def _source_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape under OpenAI's name: query, key and value are one, and attention's matrices are 1×1 convolutions.

    guided-diffusion's 1-d convolutions are refused with it: there the heads come first, (head, three, channel).
    """
    rows = 3 * shape[0] if _projection(key) in QKV else shape[0]
    is_matrix = ".attentions." in key and len(shape) == 2
    return (rows, *shape[1:], 1, 1) if is_matrix else (rows, *shape[1:])


def _part(key: str, value: Tensor) -> Tensor:
    """The part of OpenAI's tensor for ``key``: all of it, or a third of the rows, which are (three, head, channel)."""
    projection = _projection(key)
    part = value.chunk(3)[QKV.index(projection)].clone() if projection in QKV else value
    return part.contiguous()


def _projection(key: str) -> str:
    return key.split(".")[-2]
