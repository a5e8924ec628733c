"""What ``cmap attack`` leaves besides the floats: 8-bit images, scored as they are after rounding, and a manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from cmap_cli.benchmark import BenchmarkFolder, Campaign, predict
from cmap_cli.errors import CmapError
from cmap_cli.figures import Comparison
from cmap_cli.images import to_uint8, write_image
from cmap_cli.results import MANIFEST_FILE, Record, write_atomically

IMAGES = "images"


def export_images(campaign: Campaign, folder: BenchmarkFolder) -> Iterator[Record]:
    """Write every adversarial image as PNG and manifest.jsonl, one line an image.

    Rounding to 8 bits can undo a small perturbation, so the written image is shown to the classifier and the defence
    anew; it can also leave the ball by half a level, so its distance is measured anew.

    Yields:
        The manifest's lines.
    """
    lines: list[str] = []
    for record in folder.records():
        if record["attack"] == "clean" or record["row"] is None:
            continue
        tensors = load_file(folder.folder / record["file"])
        row = record["row"]
        x, x_adv = tensors["x"][row], tensors["x_adv"][row]
        relative = Path(IMAGES) / safe_relative(record["key"])
        write_image(folder.folder / relative, x_adv, None)
        rounded = (to_uint8(x_adv).float() / 255)[None].to(campaign.device)
        threat = next(t for t in campaign.threats if t.spelled == record["eps"])
        draws, _ = campaign.defenses.evaluate(record["defense"], rounded, 1)
        line = {
            "key": record["key"],
            "label": record["label"],
            "label_is_prediction": record["label_is_prediction"],
            "attack": record["attack"],
            "access": record["access"],
            "norm": record["norm"],
            "eps": record["eps"],
            "distance": record["distance"],
            "file": record["file"],
            "row": row,
            "classifier": record["undefended"],
            "defense": record["defense"],
            "defended": record["draws"],
            "success": record["undefended"] != record["label"],
            "success_defended": sum(draw != record["label"] for draw in record["draws"]) * 2 >= len(record["draws"]),
            "png": relative.as_posix(),
            "png_distance": float(threat.distance(rounded.cpu(), x[None])),
            "png_success": predict(campaign.classifier.module, rounded)[0] != record["label"],
            "png_success_defended": draws[0][0] != record["label"],
        }
        lines.append(json.dumps(line) + "\n")
        yield line
    write_atomically(folder.folder / MANIFEST_FILE, "".join(lines))


def safe_relative(key: str) -> Path:
    """A key as a path of a PNG file below the output folder."""
    parts = [part for part in Path(key).parts if part not in ("/", "..", ".")]
    if not parts:
        raise CmapError(f"the image {key!r} has no name")
    return Path(*parts[:-1], parts[-1] if parts[-1].endswith(".png") else f"{parts[-1]}.png")


def sheet(campaign: Campaign, folder: BenchmarkFolder, most: int) -> list[Comparison]:
    """The first images before and after the attack, for a picture sheet."""
    comparisons: list[Comparison] = []
    for record in folder.records():
        if record["row"] is None or len(comparisons) == most:
            continue
        tensors = load_file(folder.folder / record["file"])
        before, after = (tensors[name][record["row"]] for name in ("x", "x_adv"))
        classifier = campaign.classifier
        caption = f"{classifier.class_name(record['label'])} -> {classifier.class_name(record['undefended'])}"
        comparisons.append(Comparison(before.to(torch.float32), after.to(torch.float32), caption))
    return comparisons
