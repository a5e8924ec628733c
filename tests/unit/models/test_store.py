"""Damaged and foreign model files: one error, whatever is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cmap_cli.errors import OutOfSpaceError, WeightsError
from cmap_cli.models.networks import FAMILIES
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.store import read_model, save_model
from tests.unit.models.networks.test_nets import gaussian, unet

Contents = tuple[dict[str, str], dict[str, Any], dict[str, Tensor]]
Spoil = Callable[[dict[str, str], dict[str, Any], dict[str, Tensor]], object]


def written(path: Path, make: Callable[[], Any], spoil: Spoil) -> Path:
    """The file of a model after a change of its metadata, its description or its tensors."""
    save_model(make(), path)
    with safe_open(path, "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    described = json.loads(metadata["model"])
    metadata["model"] = ""
    spoil(metadata, described, tensors)
    if metadata.get("model") == "":
        metadata["model"] = json.dumps(described)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def scaled(key: str, factor: float) -> Spoil:
    return lambda metadata, described, tensors: tensors.update({key: tensors[key] * factor})


def with_nan(key: str) -> Spoil:
    return lambda metadata, described, tensors: tensors[key].view(-1)[:1].fill_(float("nan"))


BACKBONE = "backbone.conv_in.weight"


def photo() -> PhotoConsistency:
    return PhotoConsistency((8, 8), 1, 1, (3, 8, 8))


DAMAGES: list[tuple[Callable[[], Any], Spoil, str]] = [
    (gaussian, lambda m, d, t: m.pop("model"), "the description in .* is damaged"),
    (gaussian, lambda m, d, t: m.update(model="{"), "the description in .* is damaged"),
    (gaussian, lambda m, d, t: m.update(model="[1]"), "the description in .* is damaged"),
    (gaussian, lambda m, d, t: m.update(model="[" * 100_000), "the description in .* is damaged"),
    (gaussian, lambda m, d, t: m.update(format="pt"), "is not a model of cmap: its format is 'pt'"),
    (gaussian, lambda m, d, t: m.pop("format"), "is not a model of cmap: its format is None"),
    (gaussian, lambda m, d, t: d.pop("kind"), "does not name the kind"),
    (gaussian, lambda m, d, t: d.update(kind=3), "does not name the kind"),
    (gaussian, lambda m, d, t: d.update(kind="transformer"), "no network is of the kind 'transformer'"),
    (gaussian, lambda m, d, t: d.update(kind="unet"), "description of the unet network is wrong: .*widths"),
    (gaussian, lambda m, d, t: d.pop("sigma_max"), "missing required field `sigma_max`"),
    (gaussian, lambda m, d, t: d.update(sigma_min="low"), "sigma_min"),
    (gaussian, lambda m, d, t: d.update(sigma_min=-0.002), "sigma_min"),
    (gaussian, lambda m, d, t: d.update(sigma_min=90.0), "sigma_min 90.0 is not below sigma_max 80.0"),
    (gaussian, lambda m, d, t: d.update(residual=-1.0), "residual"),
    (gaussian, lambda m, d, t: d.update(colour="red"), "unknown field `colour`"),
    (gaussian, lambda m, d, t: t.pop("mean"), "the mean has the shape None"),
    (gaussian, lambda m, d, t: t.update(mean=t["mean"].flatten()), r"the mean has the shape \[48\]"),
    (gaussian, lambda m, d, t: t.update(mean=(t["mean"] * 9).long()), "no floats in mean"),
    (gaussian, lambda m, d, t: t.pop("stds"), "lacks stds"),
    (gaussian, lambda m, d, t: t.update(stds=t["stds"][:-1]), "has the wrong shapes stds"),
    (gaussian, lambda m, d, t: t.update(directions=t["directions"][:, :-1]), "has the wrong shapes directions"),
    (gaussian, lambda m, d, t: t.update(directions=t["directions"][:0], stds=t["stds"][:0]), "no principal directions"),
    (gaussian, lambda m, d, t: t.update(more=torch.zeros(1)), "has the unexpected more"),
    (gaussian, scaled("stds", -1), "negative standard deviations"),
    (gaussian, with_nan("mean"), "not finite in mean"),
    (gaussian, scaled("directions", float("inf")), "not finite in directions"),
    (unet, lambda m, d, t: d.update(widths=[16, 33]), "widths"),
    (unet, lambda m, d, t: d.update(widths=[]), "widths"),
    (unet, lambda m, d, t: d.update(widths=[16, 48]), "has the wrong shapes"),
    (unet, lambda m, d, t: d.update(blocks=10**9), "blocks"),
    (unet, lambda m, d, t: d.update(widths=[8192] * 6), "the checkpoint lacks"),  # 60 GB, if they were allocated
    (photo, lambda m, d, t: d.update(widths=[8192] * 6), "the checkpoint lacks"),
    (photo, with_nan(BACKBONE), f"not finite in {BACKBONE}"),
    (photo, lambda m, d, t: d.update(image_shape=[3, 0, 8]), "image_shape"),
    (unet, lambda m, d, t: d.update(preconditioning="none"), "preconditioning"),
    (unet, lambda m, d, t: t.pop(BACKBONE), "lacks conv_in.weight"),
    (unet, with_nan(BACKBONE), f"not finite in {BACKBONE}"),
]


@pytest.mark.parametrize(("make", "spoil", "message"), DAMAGES)
def test_damaged_models_are_one_error(tmp_path: Path, make: Callable[[], Any], spoil: Spoil, message: str) -> None:
    path = written(tmp_path / "model.safetensors", make, spoil)
    with pytest.raises(WeightsError, match=message) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_safetensors_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(gaussian(), path)
    content = path.read_bytes()
    for damaged in (
        b"",
        content[:7],
        content[:100],
        content[:-1],
        b"\xff" * 64,
        (2**63).to_bytes(8, "little") + content,
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match="cannot be read as safetensors"):
            read_model(path)
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read_model(tmp_path / "nothing.safetensors")


def test_every_family_has_a_name_of_its_own() -> None:
    assert len({family.KIND for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="this system has no /dev/full")
def test_a_full_disk_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary file is made to be a link to a device that is always full."""
    from cmap_cli.models import store

    def to_full_device(tensors: object, path: Path, metadata: object) -> None:
        path.symlink_to("/dev/full")
        path.write_bytes(b"x")

    monkeypatch.setattr(store, "save_file", to_full_device)
    with pytest.raises(OutOfSpaceError, match=r"no space left to write .*model\.safetensors"):
        save_model(gaussian(), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
