"""Images of any size and a model of one size: what is cut is put together again."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import interpolate

from cmap_cli.data.tiling import Fit, FitPlan, assemble, cut, fit_alpha, plan_fit
from cmap_cli.errors import ImageError


def image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


@pytest.mark.parametrize("fit", ["auto", "tile", "resize", "crop"])
def test_an_image_of_the_models_size_is_left_alone(fit: Fit) -> None:
    plan = plan_fit(32, 48, (32, 48), fit)
    pixels = image(32, 48)
    assert (plan.mode, plan.tiles, plan.output_size) == ("exact", 1, (32, 48))
    assert torch.equal(cut(pixels, plan), pixels[None])
    assert torch.equal(assemble(cut(pixels, plan), plan), pixels)
    assert torch.equal(fit_alpha(pixels[0], plan), pixels[0])


LENGTHS = [33, 56, 57, 64, 80, 81, 200, 1023]
SIZES = [(33, 32), (64, 64), (100, 37), (32, 257), (31, 32), (20, 90), (17, 17), (16, 16), (5, 40), (1, 1), (3, 500)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [(32, 32), (16, 24), (9, 9), (2, 3)])
def test_tiles_are_put_together_as_they_were(height: int, width: int, size: tuple[int, int]) -> None:
    plan = plan_fit(height, width, size, "tile")
    pixels = image(height, width)
    patches = cut(pixels, plan)
    assert plan.mode == "tile"
    assert patches.shape == (plan.tiles, 3, *size)
    assert plan.output_size == (height, width)
    torch.testing.assert_close(assemble(patches, plan), pixels, rtol=0, atol=1e-6)
    assert torch.equal(fit_alpha(pixels[0], plan), pixels[0])


@pytest.mark.parametrize(("length", "tile"), list(itertools.product(LENGTHS, [8, 30, 32])))
def test_tiles_overlap_by_a_quarter_and_are_no_more_than_needed(length: int, tile: int) -> None:
    tops = plan_fit(length, tile, (tile, tile), "tile").tops
    steps = [b - a for a, b in itertools.pairwise(tops)]
    assert (tops[0], tops[-1]) == (0, length - tile)
    assert max(steps) <= 0.75 * tile
    assert max(steps) - min(steps) <= 1
    assert (len(tops) - 2) * (tile - -(-tile // 4)) < length - tile  # one tile fewer would not do


def test_tiles_in_order_and_seams_that_fade() -> None:
    plan = plan_fit(32, 56, (32, 32), "tile")
    assert plan == FitPlan("tile", (32, 56), (32, 32))
    assert (plan.tops, plan.lefts, plan.tiles) == ((0,), (0, 24), 2)
    pixels = image(32, 56)
    patches = cut(pixels, plan)
    assert torch.equal(patches[0], pixels[:, :, :32])
    assert torch.equal(patches[1], pixels[:, :, 24:])
    step = assemble(torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]), plan)[0, 7]
    assert torch.equal(step[:24], torch.zeros(24))
    torch.testing.assert_close(step[32:], torch.ones(24))
    overlap = step[24:32]
    assert (overlap.diff() > 0).all()
    assert 0 < overlap[0] < 0.05
    assert 0.95 < overlap[-1] < 1


def test_every_pixel_of_every_tile_counts() -> None:
    plan = plan_fit(50, 50, (20, 20), "tile")
    patches = torch.zeros(plan.tiles, 1, 20, 20)
    for index, corner in itertools.product(range(plan.tiles), [(0, 0), (0, -1), (-1, 0), (-1, -1)]):
        patches.zero_()[index, 0, *corner] = 1
        assert assemble(patches, plan).sum() > 0


def test_a_short_side_is_padded_by_its_mirror_image_or_by_its_border() -> None:
    row = torch.arange(1.0, 6)[None, None] / 10
    mirrored = cut(row.expand(1, 8, 5), plan_fit(8, 5, (8, 8), "tile"))
    torch.testing.assert_close(mirrored[0, 0, 0], torch.tensor([2, 1, 2, 3, 4, 5, 4, 3]) / 10)
    border = cut(row[..., :2].expand(1, 8, 2), plan_fit(8, 2, (8, 8), "tile"))
    torch.testing.assert_close(border[0, 0, 0], torch.tensor([1, 1, 1, 1, 2, 2, 2, 2]) / 10)


def test_auto_tiles_until_that_takes_too_many() -> None:
    assert plan_fit(200, 200, (32, 32), "auto").mode == "tile"
    assert plan_fit(200, 200, (32, 32), "auto").tiles == 64
    with pytest.raises(ImageError, match="201×200 needs 72 tiles of 32×32, more than 64"):
        plan_fit(200, 201, (32, 32), "auto")
    assert plan_fit(200, 201, (32, 32), "tile").tiles == 72
    assert plan_fit(200, 201, (32, 32), "auto", max_tiles=72).mode == "tile"
    assert plan_fit(8, 8, (32, 32), "auto").mode == "tile"


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_resize_and_crop_have_the_models_size(fit: Fit, height: int, width: int, size: tuple[int, int]) -> None:
    plan = plan_fit(height, width, size, fit)
    patches = cut(image(height, width).round(), plan)
    assert (plan.mode, plan.tiles, plan.output_size) == (fit, 1, size)
    assert patches.shape == (1, 3, *size)
    assert patches.min() >= 0
    assert patches.max() <= 1
    assert torch.equal(assemble(patches, plan), patches[0])
    assert torch.equal(fit_alpha(image(height, width)[0].round(), plan), patches[0, 0])


def test_resize_takes_all_of_the_image_and_crop_its_centre() -> None:
    thirds = torch.zeros(1, 60, 180)
    thirds[:, :, 60:120] = 0.5
    thirds[:, :, 120:] = 1
    resized = cut(thirds, plan_fit(60, 180, (30, 30), "resize"))[0, 0, 15]
    assert resized[[2, 15, 27]].tolist() == pytest.approx([0, 0.5, 1], abs=1e-3)
    cropped = cut(thirds, plan_fit(60, 180, (30, 30), "crop"))[0, 0, 15]
    assert cropped[2:-2].tolist() == pytest.approx([0.5] * 26, abs=1e-3)
    tall = cut(thirds.mT, plan_fit(180, 60, (30, 30), "crop"))[0, 0, :, 15]
    assert torch.equal(tall, cropped)


def test_fine_patterns_are_averaged_and_not_picked_from() -> None:
    stripes = (torch.arange(256) % 2).float().expand(1, 256, 256)
    small = cut(stripes, plan_fit(256, 256, (32, 32), "resize"))[0, 0, 4:-4, 4:-4]
    torch.testing.assert_close(small, torch.full_like(small, 0.5), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("height", "width", "covering", "corner"),  # as torchvision's Resize(32) and CenterCrop(32) have them
    [
        (45, 77, (32, 54), (0, 11)),
        (77, 45, (54, 32), (11, 0)),
        (33, 34, (32, 32), (0, 0)),
        (100, 333, (32, 106), (0, 37)),
        (20, 25, (32, 40), (0, 4)),
        (20, 22, (32, 35), (0, 2)),
    ],
)
def test_crop_is_torchvisions(height: int, width: int, covering: tuple[int, int], corner: tuple[int, int]) -> None:
    pixels = image(height, width)
    resized = interpolate(pixels[None], covering, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = corner
    expected = resized[:, :, top : top + 32, left : left + 32]
    assert torch.equal(cut(pixels, plan_fit(height, width, (32, 32), "crop")), expected)
