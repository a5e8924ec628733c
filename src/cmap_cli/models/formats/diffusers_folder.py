"""Consistency models of diffusers on disk: the folder of a ConsistencyModelPipeline or of its U-Net."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cmap_cli.core.consistency import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN
from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.formats.tensor_files import first_line, read_pickle
from cmap_cli.models.networks.adm import KIND, build_adm
from cmap_cli.models.networks.state import check_tensors

CONFIG = "config.json"
SCHEDULER = "CMStochasticIterativeScheduler"
SAFETENSORS = "diffusion_pytorch_model.safetensors"
INDEX = f"{SAFETENSORS}.index.json"
BIN = "diffusion_pytorch_model.bin"
SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_KEY = re.compile(rf"(.+\.attentions\.\d+)\.({'|'.join(OLD_ATTENTION)})\.(weight|bias)")


def read_diffusers_folder(folder: Path, refused: Mapping[str, str] = {}) -> Converted:
    """A local folder -> ADMConsistency's description and tensors, on the CPU in float32.

    Args:
        folder: a pipeline's folder (with ``unet/`` and ``scheduler/``) or the U-Net's own.
        refused: SHA-256 -> the reason why that weight file must not be used.

    Raises:
        WeightsError: a file is missing or unreadable, is refused, or is not that of a consistency model.
    """
    unet = unet_folder(folder)
    config = _read_json(unet / CONFIG, "give the folder of a diffusers consistency model")
    levels = _noise_levels(unet.parent / "scheduler" / "scheduler_config.json") if unet.name == "unet" else {}
    path = weights_file(folder)
    reason = refused.get(weights_sha256(folder)) if refused else None
    if reason:
        raise WeightsError(f"{path} is refused: {reason}", f"use the {SAFETENSORS} of the same model")
    return convert_unet(_read_weights(path), config, **levels)


def convert_unet(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    sigma_data: float = SIGMA_DATA,
) -> Converted:
    """The tensors of a UNet2DModel under ADMConsistency's names, in float32.

    Args:
        state: the loaded state dict.
        config: the content of config.json.
        sigma_min: t_min, where f is the identity.
        sigma_max: t_max.
        sigma_data: standard deviation of the data.

    Raises:
        WeightsError: keys are missing, unexpected or mis-shaped, or values are not finite floats.
    """
    description = {
        "kind": KIND,
        "unet": dict(config),
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
        "sigma_data": sigma_data,
    }
    state = {OLD_KEY.sub(lambda old: f"{old[1]}.{OLD_ATTENTION[old[2]]}.{old[3]}", k): v for k, v in state.items()}
    expected = {key.removeprefix("unet."): tuple(v.shape) for key, v in build_adm(description).state_dict().items()}
    check_tensors(state, expected)
    return Converted(
        description, {f"unet.{k}": state[k].float().contiguous() for k in expected}, layout_sha256(expected)
    )


def unet_folder(folder: Path) -> Path:
    """The U-Net's folder of a pipeline, or the folder itself; absolute."""
    unet = folder.absolute() / "unet"
    return unet if unet.is_dir() else unet.parent


def weights_file(folder: Path) -> Path:
    """The file that holds the weights, or the index of a sharded model: safetensors before the pickled .bin.

    Raises:
        WeightsError: there is none.
    """
    unet = unet_folder(folder)
    for name in (SAFETENSORS, INDEX, BIN):
        if (unet / name).is_file():
            return unet / name
    raise WeightsError(
        f"{unet} holds no {SAFETENSORS} and no {BIN}", "give the folder of a diffusers consistency model"
    )


def weights_sha256(folder: Path) -> str:
    """What identifies the weights: the file's SHA-256, or for a sharded model that of its shards' digests.

    Raises:
        WeightsError: a file is missing or the index is wrong.
    """
    path = weights_file(folder)
    if path.name != INDEX:
        return _sha256(path)
    lines = "".join(f"{_sha256(shard)}  {shard.name}\n" for shard in sorted(set(_shards(path).values())))
    return hashlib.sha256(lines.encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"the weights {path} cannot be read: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a weight file or of an index's shards, on the CPU."""
    try:
        if path.name == SAFETENSORS:
            return load_file(path)
        if path.name == INDEX:
            shards = _shards(path)
            files = {shard: load_file(shard) for shard in set(shards.values())}
            return {key: files[shard][key] for key, shard in shards.items()}
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise WeightsError(f"the weights {path} cannot be read: {first_line(str(error))}") from error
    state = read_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise WeightsError(f"{path} is not a state dict of tensors")
    return state


def _shards(index: Path) -> dict[str, Path]:
    """Key -> the file beside the index that holds it; names that would lead elsewhere are refused."""
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightsError(f"{index} has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or not SHARD_NAME.fullmatch(name):
            raise WeightsError(f"{index} names the shard {name!r}, which is not a safetensors file beside it")
    return {key: index.parent / name for key, name in names.items()}


def _noise_levels(path: Path) -> dict[str, float]:
    """sigma_min, sigma_max and sigma_data of a scheduler's configuration, as far as there is one."""
    if not path.is_file():
        return {}
    scheduler = _read_json(path)
    if scheduler.get("_class_name") != SCHEDULER:
        raise WeightsError(
            f"{path} is for a {scheduler.get('_class_name')}, not a {SCHEDULER}: the model is no consistency model"
        )
    levels: dict[str, float] = {
        key: scheduler[key] for key in ("sigma_min", "sigma_max", "sigma_data") if key in scheduler
    }
    if not all(isinstance(value, int | float) and value > 0 for value in levels.values()):
        raise WeightsError(f"{path} has noise levels that are no positive numbers: {levels}")
    return levels


def _read_json(path: Path, hint: str = "") -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", hint) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return content
