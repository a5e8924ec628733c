from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cmap_cli.errors import WeightsError
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.store import build_model, save_model
from cmap_cli.models.zoo import load_model


def photo(widths: tuple[int, ...] = (4, 6), blocks: int = 1, middle: int = 1) -> PhotoConsistency:
    """A tiny network with random weights in every layer, those that begin as zero included."""
    generator = torch.Generator().manual_seed(0)
    model = PhotoConsistency(widths, blocks, middle).requires_grad_(False)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return model


def pictures(height: int, width: int) -> torch.Tensor:
    return 2 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) - 1


@pytest.mark.parametrize("size", [(16, 16), (17, 30), (3, 9), (1, 1)])
def test_images_of_any_size_come_back_at_their_size(size: tuple[int, int]) -> None:
    x = pictures(*size)
    for estimate in (photo(), photo().denoise):
        out = estimate(x, torch.tensor([0.1, 5.0]))
        assert out.shape == x.shape
        assert bool(out.isfinite().all())


def test_f_is_the_identity_at_the_lowest_level() -> None:
    x = pictures(20, 24)
    torch.testing.assert_close(photo()(x, torch.full((2,), 0.002)), x, atol=1e-6, rtol=0)


def test_the_network_changes_the_image_at_other_levels_and_by_level() -> None:
    x = pictures(16, 16)
    low, high = photo()(x, torch.full((2,), 0.2)), photo()(x, torch.full((2,), 0.5))
    assert float((low - x).abs().max()) > 0.01
    assert float((low - high).abs().max()) > 0.01


@pytest.mark.parametrize(("widths", "blocks", "middle"), [((4, 6), 1, 1), ((4, 6), 2, 3), ((4, 6, 8), 1, 2)])
def test_no_pixel_beyond_the_receptive_radius_matters(widths: tuple[int, ...], blocks: int, middle: int) -> None:
    model = photo(widths, blocks, middle).double()
    radius, stride = model.receptive_radius, model.stride
    assert radius % stride == 0
    side = 2 * radius + 3 * stride
    x = pictures(8, side).double()[:1].requires_grad_()
    sigma = torch.tensor([0.3], dtype=torch.float64)
    reached = 0
    for column in range(radius, radius + stride):
        gradient = torch.autograd.grad(model(x, sigma)[..., column].sum(), x)[0].abs().sum((0, 1, 2))
        touched = gradient.nonzero().flatten()
        reached = max(reached, int(touched.max()) - column, column - int(touched.min()))
    assert radius - stride < reached <= radius


def test_a_tile_that_covers_the_receptive_radius_equals_the_whole_picture() -> None:
    model = photo((4, 6, 8), 1, 2)
    radius, stride = model.receptive_radius, model.stride
    x = pictures(4 * stride, 2 * radius + 6 * stride)
    sigma = torch.full((2,), 0.3)
    whole = model.denoise(x, sigma)
    start, end = 3 * stride, 5 * stride + radius
    tile = model.denoise(x[..., start : end + radius], sigma)
    inner = slice(start + radius, end)
    torch.testing.assert_close(tile[..., radius : end - start], whole[..., inner], atol=1e-5, rtol=0)
    cut = model.denoise(x[..., inner], sigma)
    assert float((cut - whole[..., inner]).abs().max()) > 1e-3


def test_a_model_comes_back_from_its_file(tmp_path: Path) -> None:
    model = photo((4, 6, 8), 2, 1)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(str(tmp_path))
    assert isinstance(again, PhotoConsistency)
    assert (again.widths, again.blocks, again.middle) == ((4, 6, 8), 2, 1)
    x, sigma = pictures(10, 12), torch.tensor([0.1, 1.0])
    torch.testing.assert_close(again.denoise(x, sigma), model.denoise(x, sigma), atol=0.01, rtol=0.01)


def test_a_file_with_other_tensors_is_refused() -> None:
    model = photo()
    tensors = {key: value.float() for key, value in model.tensors().items()}
    build_model(model.description(), dict(tensors))
    with pytest.raises(WeightsError, match="lacks"):
        build_model(model.description(), {key: value for key, value in tensors.items() if "conv_in" not in key})
    with pytest.raises(WeightsError, match="widths"):
        build_model(model.description() | {"widths": [4]}, tensors)
