"""The weights of one of OpenAI's ADM models as a single file of diffusers, without its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.models.formats import diffusers_folder, tensor_files
from cmap_cli.models.formats.adm_configs import ADM_CONFIGS
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.formats.layout import Converted

if TYPE_CHECKING:
    from cmap_cli.models.weights.documents import Artefact


def read(path: Path, artefact: Artefact) -> Converted:
    """The file of a UNet2DModel of the artefact's architecture, safetensors or a state dict (WeightsError)."""
    if path.suffix == ".safetensors":
        state = tensor_files.read_safetensors(path)
    else:
        state = unwrap(tensor_files.read_pickle(path))
    return diffusers_folder.convert_unet(state, ADM_CONFIGS[artefact.architecture])
