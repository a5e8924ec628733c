"""UNet2DModel's configuration for OpenAI's ADM consistency models.

Sources: scripts/launch.sh of openai/consistency_models (widths, layers, attention at 32, 16 and 8 pixels, heads of 64
channels) and the config.json files of the diffusers ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEAD_CHANNELS = 64
IMAGE_CHANNELS = 3


def unet_config(
    *,
    image_size: int,
    widths: Sequence[int],
    layers: int,
    attention: Sequence[bool],
    num_classes: int | None,
    scale_shift: bool,
    head_channels: int = HEAD_CHANNELS,
    channels: int = IMAGE_CHANNELS,
) -> dict[str, Any]:
    """The configuration of an ADM U-Net with residual up- and downsampling.

    Args:
        image_size: height and width, pixels.
        widths: channels of each level, finest first.
        layers: residual blocks per level.
        attention: which levels attend, finest first.
        num_classes: None for an unconditional model.
        scale_shift: whether the noise level scales and shifts (ImageNet-64) or only shifts (LSUN-256).
        head_channels: channels of an attention head; the shapes of tensors do not determine it.
        channels: of the images.
    """
    return {
        "_class_name": "UNet2DModel",
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attention)],
        "block_out_channels": list(widths),
        "layers_per_block": layers,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "act_fn": "silu",
        "attention_head_dim": head_channels,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,  # without it a scale_shift model's middle attention is not normalised
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if scale_shift else "default",
        "class_embed_type": None,
        "num_class_embeds": num_classes,
    }


def _imagenet64(num_classes: int | None) -> dict[str, Any]:
    return unet_config(
        image_size=64,
        widths=(192, 384, 576, 768),
        layers=3,
        attention=(False, True, True, True),
        num_classes=num_classes,
        scale_shift=True,
    )


ADM_CONFIGS: dict[str, dict[str, Any]] = {
    "adm-imagenet64": _imagenet64(1000),
    "adm-imagenet64-unconditional": _imagenet64(None),
    "adm-lsun256": unet_config(
        image_size=256,
        widths=(256, 256, 512, 512, 1024, 1024),
        layers=2,
        attention=(False, False, False, True, True, True),
        num_classes=None,
        scale_shift=False,
    ),
}
"""The published architectures by the name the manifest uses."""
