"""What ``cmap attack`` leaves besides the floats: 8-bit images, scored as they are after rounding, and a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file

from cmap_cli.benchmarking.campaign import Campaign
from cmap_cli.benchmarking.run import BenchmarkFolder, chunk_of, predict
from cmap_cli.data.images import to_uint8, write_image
from cmap_cli.data.sheets import Comparison
from cmap_cli.errors import CmapError
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.settings import MANIFEST, Record

IMAGES = "images"


def export_images(campaign: Campaign, folder: BenchmarkFolder) -> Iterator[Record]:
    """Write every adversarial image of the folder's shard as PNG and its manifest.jsonl, one line an image.

    Rounding to 8 bits can undo a small perturbation, so the written image is shown to the classifier and the defence
    anew; it can also leave the ball by half a level, so its distance is measured anew.

    Yields:
        The manifest's lines.
    """
    manifest = Journal(folder.folder, MANIFEST, folder.shard)
    manifest.rewrite([])
    own = {(item.name, start) for item, start, _ in campaign.share(folder.shard)}
    told = set()
    for record in folder.journal.all_records():  # another shard may have attacked what is now this one's
        if record["row"] is None or chunk_of(record, campaign.chunk) not in own or record["image"] in told:
            continue
        told.add(record["image"])
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
        manifest.append([line])
        yield line


def safe_relative(key: str) -> Path:
    """A key as a path of a PNG file below the output folder."""
    parts = [part for part in Path(key).parts if part not in ("/", "..", ".")]
    if not parts:
        raise CmapError(f"the image {key!r} has no name")
    return Path(*parts[:-1], parts[-1] if parts[-1].endswith(".png") else f"{parts[-1]}.png")


def count_successes(folder: Path) -> dict[str, int]:
    """How many of the images in a folder's manifest.jsonl deceive what, as floats and as PNG."""
    counts = {"images": 0, "success": 0, "success_defended": 0, "png_success": 0, "png_success_defended": 0}
    for line in Journal(folder, MANIFEST).records():
        counts["images"] += 1
        for key in list(counts)[1:]:
            counts[key] += line[key]
    return counts


def sheet(folder: Path, classes: Sequence[str], most: int) -> list[Comparison]:
    """The first images before and after the attack, for a picture sheet.

    Args:
        folder: the output folder.
        classes: their names, as far as they have any.
        most: how many.
    """

    def name(label: int) -> str:
        return classes[label] if label < len(classes) else str(label)

    comparisons: list[Comparison] = []
    for line in islice(Journal(folder, MANIFEST).records(), most):
        tensors = load_file(folder / line["file"])
        before, after = (tensors[each][line["row"]].to(torch.float32) for each in ("x", "x_adv"))
        comparisons.append(Comparison(before, after, f"{name(line['label'])} -> {name(line['classifier'])}"))
    return comparisons
