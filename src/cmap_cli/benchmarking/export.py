"""Writes the 8-bit images of ``cmap attack``, evaluated after rounding, and the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cmap_cli.benchmarking.campaign import Campaign
from cmap_cli.benchmarking.documents import AttackLine, BenchmarkRecord, Successes
from cmap_cli.benchmarking.folder import BenchmarkFolder
from cmap_cli.benchmarking.loop import predicted_classes
from cmap_cli.data.images import to_uint8, write_image
from cmap_cli.data.sheets import SheetRow, write_comparison
from cmap_cli.errors import CmapError, UsageError
from cmap_cli.runs.journal import Journal, read_lines
from cmap_cli.runs.merge import inside
from cmap_cli.runs.settings import MANIFEST

IMAGES = "images"
SHEET = "sheet.png"
SHOWN = 24


def export_images(campaign: Campaign, folder: BenchmarkFolder) -> Iterator[AttackLine]:
    """Write every adversarial image of the folder's shard as PNG, and manifest.jsonl with one line per image.

    Rounding to 8 bits can remove a small perturbation, so the rounded image is classified again, with and without the
    defence. It can also be outside the ball by half a level of 8 bits, so its distance is measured again.

    Yields:
        The lines of the manifest.
    """
    manifest = Journal(folder.folder, MANIFEST, folder.shard)
    manifest.rewrite([])
    own = {task.key for task in campaign.tasks(folder.shard)}
    seen = set()
    # another shard may have attacked what is now this one's
    for path in folder.journal.paths():
        for record in read_lines(path, BenchmarkRecord):
            if (
                record.file is None
                or record.undefended is None
                or (record.item, record.image) not in own
                or record.image in seen
            ):
                continue
            seen.add(record.image)
            line = export_image(campaign, folder.folder, record)
            manifest.append([line])
            yield line


def export_image(campaign: Campaign, folder: Path, record: BenchmarkRecord) -> AttackLine:
    """Write the attacked image of a record as PNG, classify it, and return its line of the manifest."""
    assert record.file is not None and record.row is not None and record.undefended is not None
    x, x_adv = read_pair(folder / inside(record.file), record.row)
    relative = Path(IMAGES) / safe_relative(record.key)
    write_image(folder / relative, x_adv, None)
    rounded = (to_uint8(x_adv).float() / 255)[None].to(campaign.device)
    threat = next(t for t in campaign.threats if t.spelled == record.eps)
    draws = campaign.defenses.evaluate(record.defense, rounded, 1).draws
    return AttackLine(
        key=record.key,
        label=record.label,
        label_is_prediction=record.label_is_prediction,
        attack=record.attack,
        access=record.access,
        norm=record.norm,
        eps=record.eps,
        distance=record.distance,
        file=record.file,
        row=record.row,
        classifier=record.undefended,
        defense=record.defense,
        defended=record.draws,
        success=record.undefended != record.label,
        success_defended=sum(draw != record.label for draw in record.draws) * 2 >= len(record.draws),
        png=relative.as_posix(),
        png_distance=float(threat.distance(rounded.cpu(), x[None])),
        png_success=predicted_classes(campaign.classifier.module, rounded)[0] != record.label,
        png_success_defended=draws[0][0] != record.label,
    )


def read_pair(path: Path, row: int) -> tuple[Tensor, Tensor]:
    """The clean and the attacked image in a row of a task's file, float32 (C, H, W).

    Raises:
        UsageError: the file is damaged, or not one that an attack has written.
    """
    try:
        with safe_open(path, "pt") as file:
            x, x_adv = (file.get_slice(name)[row] for name in ("x", "x_adv"))
        if not (x.is_floating_point() and x_adv.is_floating_point() and x.shape == x_adv.shape and x.ndim == 3):
            raise ValueError("its tensors are no images")
        if not (x.isfinite().all() and x_adv.isfinite().all()):
            raise ValueError("it has values that are not finite")
    except (OSError, SafetensorError, IndexError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{path} is damaged or of another program: {reason}", "restore the file, or start again with --overwrite"
        ) from error
    return x.to(torch.float32), x_adv.to(torch.float32)


def safe_relative(key: str) -> Path:
    """A key as a path of a PNG file below the output folder."""
    parts = [part for part in Path(key).parts if part not in ("/", "..", ".")]
    if not parts:
        raise CmapError(f"the image {key!r} has no name")
    return Path(*parts[:-1], parts[-1] if parts[-1].endswith(".png") else f"{parts[-1]}.png")


def count_successes(folder: Path) -> Successes:
    """Count the successes in a folder's manifest.jsonl, as floats and as PNG."""
    lines = list(Journal(folder, MANIFEST).read(AttackLine))
    return Successes(
        images=len(lines),
        success=sum(line.success for line in lines),
        success_defended=sum(line.success_defended for line in lines),
        png_success=sum(line.png_success for line in lines),
        png_success_defended=sum(line.png_success_defended for line in lines),
    )


def write_sheet(folder: Path, classes: Sequence[str]) -> None:
    """Draw the first images of a folder's manifest before and after the attack into sheet.png.

    Args:
        folder: the output folder.
        classes: names of the classes; empty if they have none.
    """

    def name(label: int) -> str:
        return classes[label] if label < len(classes) else str(label)

    comparisons: list[SheetRow] = []
    for line in islice(Journal(folder, MANIFEST).read(AttackLine), SHOWN):
        before, after = read_pair(folder / inside(line.file), line.row)
        comparisons.append(SheetRow(before, after, f"{name(line.label)} -> {name(line.classifier)}"))
    write_comparison(folder / SHEET, comparisons, titles=("clean", "adversarial"))
