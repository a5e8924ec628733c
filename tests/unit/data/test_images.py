"""Every kind of file as a viewer would show it, every kind of damage as one sentence, and writing."""

from __future__ import annotations

import errno
import io
import itertools
import os
import struct
import zlib
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cmap_cli.data import headers, npy
from cmap_cli.data.images import DecodedImage, read_image, to_uint8, write_image
from cmap_cli.data.inputs import Source, discover, image_size
from cmap_cli.data.npy import NpzArray
from cmap_cli.errors import ImageError, OutOfSpaceError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def read(path: Path, channels: Literal[1, 3] = 3, key: str | None = None, index: int | None = None) -> DecodedImage:
    return read_image(Source(path, index, key, PurePosixPath(path.name)), channels)


def values(image: DecodedImage) -> list[list[float]]:
    """The pixels of an image one high: a list of channels."""
    assert image.pixels.dtype == torch.float32
    assert image.pixels.is_contiguous()
    return [[round(value, 4) for value in channel] for channel in image.pixels[:, 0].tolist()]


def gradient(height: int = 24, width: int = 40) -> torch.Tensor:
    """(3, H, W) of multiples of 1/255, different in every channel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([5 * x, 7 * y, 255 - 3 * x - 2 * y]).remainder(256) / 255


def strip(mode: str, *pixels: object) -> Image.Image:
    picture = Image.new(mode, (len(pixels), 1))
    picture.putdata(pixels)
    return picture


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff"])
def test_rgb(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    strip("RGB", (255, 0, 51), (0, 102, 255)).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    image = read(path)
    assert values(image) == [[1, 0], [0, 0.4], [0.2, 1]]
    assert image.alpha is None
    assert values(read(path, 1)) == [[round(0.299 + 0.114 * 0.2, 4), round(0.587 * 0.4 + 0.114, 4)]]


def test_grey_and_one_bit_are_three_equal_channels(tmp_path: Path) -> None:
    strip("L", 0, 51, 255).save(tmp_path / "l.png")
    strip("1", 0, 1, 1).save(tmp_path / "one.png")
    assert values(read(tmp_path / "l.png")) == [[0, 0.2, 1]] * 3
    assert values(read(tmp_path / "l.png", 1)) == [[0, 0.2, 1]]
    assert values(read(tmp_path / "one.png")) == [[0, 1, 1]] * 3


def test_transparency_is_kept_apart_from_colour(tmp_path: Path) -> None:
    strip("RGBA", (255, 0, 0, 0), (0, 255, 0, 51)).save(tmp_path / "rgba.png")
    strip("LA", (51, 0), (255, 102)).save(tmp_path / "la.png")
    strip("RGB", RED, GREEN).save(tmp_path / "rgb-trns.png", transparency=RED)
    strip("L", 51, 255).save(tmp_path / "l-trns.png", transparency=51)
    expected: dict[str, tuple[list[list[float]], list[float]]] = {
        "rgba": ([[1, 0], [0, 1], [0, 0]], [0, 0.2]),
        "la": ([[0.2, 1]] * 3, [0, 0.4]),
        "rgb-trns": ([[1, 0], [0, 1], [0, 0]], [0, 1]),
        "l-trns": ([[0.2, 1]] * 3, [0, 1]),
    }
    for name, (colour, alpha) in expected.items():
        image = read(tmp_path / f"{name}.png")
        assert values(image) == colour, name
        assert image.alpha is not None, name
        assert image.alpha.dtype == torch.float32
        torch.testing.assert_close(image.alpha, torch.tensor([alpha], dtype=torch.float32))


def test_palettes_are_expanded(tmp_path: Path) -> None:
    palette = strip("P", 0, 1, 0)
    palette.putpalette([*RED, *GREEN])
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "p-index.png", transparency=1)
    palette.save(tmp_path / "p-bytes.png", transparency=b"\x33\xff")
    palette.save(tmp_path / "p.gif")
    palette.save(tmp_path / "p.gif", save_all=True, append_images=[strip("RGB", GREEN, GREEN, GREEN)])
    for name, alpha in {"p.png": None, "p-index.png": [1, 0, 1], "p-bytes.png": [0.2, 1, 0.2], "p.gif": None}.items():
        image = read(tmp_path / name)
        assert values(image) == [[1, 0, 1], [0, 1, 0], [0, 0, 0]], name
        assert (image.alpha is None) == (alpha is None), name
        if alpha and image.alpha is not None:
            torch.testing.assert_close(image.alpha, torch.tensor([alpha]).float())


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    deep = np.array([[0, 1, 257, 65535]], np.uint16)
    expected = torch.tensor([0, 1, 257, 65535]) / 65535
    Image.fromarray(deep).save(tmp_path / "x.png")
    Image.fromarray(deep).save(tmp_path / "x.tiff")
    Image.fromarray(deep).save(tmp_path / "clear.png", transparency=257)
    Image.frombytes("I;16B", (4, 1), deep.astype(">u2").tobytes()).save(tmp_path / "big.tiff")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "i.tiff")
    for name in ("x.png", "x.tiff", "clear.png", "big.tiff", "i.tiff"):
        torch.testing.assert_close(read(tmp_path / name).pixels, expected.expand(3, 1, 4), rtol=0, atol=1e-7)
    alpha = read(tmp_path / "clear.png").alpha
    assert alpha is not None
    assert alpha.tolist() == [[1, 1, 0, 1]]
    Image.fromarray(np.array([[0, 70_000]], np.int32)).save(tmp_path / "i.tiff")
    with pytest.raises(ImageError, match=r"i.tiff has values from 0 to 70000"):
        read(tmp_path / "i.tiff")


def test_floating_point_tiff_has_to_be_in_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.25, 1]], np.float32)).save(tmp_path / "good.tiff")
    Image.fromarray(np.array([[0, 0.25, 255]], np.float32)).save(tmp_path / "bad.tiff")
    assert values(read(tmp_path / "good.tiff")) == [[0, 0.25, 1]] * 3
    with pytest.raises(ImageError, match=r"bad.tiff has values from 0 to 255"):
        read(tmp_path / "bad.tiff")


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.tiff", "grey.tiff", "deep.tiff", "deep.png", "x.jpg"])
def test_exif_turns_the_image_upright(name: str, orientation: int, turns: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = torch.linspace(0, 1, 24).expand(3, 16, 24)
    stored = to_uint8(pixels).movedim(0, -1).numpy()
    if name.startswith("grey"):
        stored = stored[..., 0]
    elif name.startswith("deep"):
        stored = stored[..., 0].astype(np.uint16) * 257
    options = {"x.webp": {"lossless": True}, "x.jpg": {"quality": 100}}.get(name, {})
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **options)
    upright = pixels.rot90(turns, (1, 2))  # counterclockwise
    torch.testing.assert_close(read(tmp_path / name).pixels, upright, rtol=0, atol=0.02)
    assert image_size(discover([str(tmp_path / name)]).sources[0]) == tuple(upright.shape[:0:-1])


def test_broken_exif_is_no_reason_to_fail(tmp_path: Path) -> None:
    strip("RGB", RED, GREEN).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)
    assert read(tmp_path / "x.jpg").pixels.shape == (3, 1, 2)


@pytest.mark.parametrize("suffix", [".jpg", ".tiff"])
def test_cmyk(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"  # Pillow writes a JPEG as Adobe does, inverted
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path)
    torch.testing.assert_close(read(path).pixels.mean((1, 2)), torch.tensor([1.0, 0, 0]), rtol=0, atol=0.02)


def grey_profile() -> bytes:
    """A CMYK profile in which magenta on yellow is not red but the grey L* = 50."""
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0])
    table += struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    colours = [0 if k else 128 if m and y else 255 for _, m, y, k in itertools.product([0, 1], repeat=4)]
    table += bytes(range(256)) * 4 + b"".join(bytes([L, 128, 128]) for L in colours) + bytes(range(256)) * 3
    head = struct.pack(">I4sI4s4s4s", 144 + len(table), b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    head += bytes(128 - len(head))
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_goes_through_its_profile_if_that_is_good(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    picture.save(tmp_path / "profile.jpg", quality=100, icc_profile=grey_profile())
    picture.save(tmp_path / "broken.jpg", quality=100, icc_profile=b"not a profile")
    grey = read(tmp_path / "profile.jpg").pixels
    torch.testing.assert_close(grey, torch.full_like(grey, 119 / 255), rtol=0, atol=0.02)
    red = read(tmp_path / "broken.jpg").pixels.mean((1, 2))
    torch.testing.assert_close(red, torch.tensor([1.0, 0, 0]), rtol=0, atol=0.02)


def test_content_and_not_the_name_decides(tmp_path: Path) -> None:
    for name in ("png.jpg", "png.npy", "png.safetensors", "png"):
        picture = io.BytesIO()
        strip("RGB", RED).save(picture, "PNG")
        (tmp_path / name).write_bytes(picture.getvalue())
        assert values(read(tmp_path / name)) == [[1], [0], [0]]
    np.save(tmp_path / "x.npy", np.full((4, 4), 255, np.uint8))
    (tmp_path / "x.npy").rename(tmp_path / "array")
    assert read(tmp_path / "array").pixels.shape == (3, 4, 4)


PATTERN = np.arange(2 * 5 * 7 * 3).reshape(2, 5, 7, 3)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", "float64"])
def test_arrays_of_every_type_and_layout(kind: str, layout: str, dtype: str, tmp_path: Path) -> None:
    most = {"uint8": 255, "uint16": 65535, ">u2": 65535}.get(dtype, 1)
    array = (PATTERN / 256 if most == 1 else PATTERN * (most // 255)).astype(dtype)
    expected = torch.from_numpy(array.astype(np.float64) / most).float().movedim(-1, 1)
    array = array if layout == "NHWC" else np.moveaxis(array, -1, 1)
    path = tmp_path / f"x.{kind}"
    match kind:
        case "npy":
            np.save(path, array)
        case "npz":
            np.savez_compressed(path, x=array)
        case _:
            native = array.astype(array.dtype.newbyteorder("="))
            save_file({"x": torch.from_numpy(native).contiguous()}, path)
    sources = discover([str(path)]).sources
    assert len(sources) == 2
    for source, image in zip(sources, expected, strict=True):
        torch.testing.assert_close(read_image(source).pixels, image, rtol=0, atol=1e-7)


def test_single_arrays_alpha_and_half_precision(tmp_path: Path) -> None:
    np.save(tmp_path / "hw.npy", np.array([[0, 51, 255]], np.uint8))
    assert values(read(tmp_path / "hw.npy")) == [[0, 0.2, 1]] * 3
    rgba = np.array([[[255, 0, 51, 102], [0, 0, 0, 255]]], np.uint8)
    np.save(tmp_path / "rgba.npy", rgba)
    image = read(tmp_path / "rgba.npy")
    assert values(image) == [[1, 0], [0, 0], [0.2, 0]]
    assert image.alpha is not None
    torch.testing.assert_close(image.alpha, torch.tensor([[0.4, 1]]))
    save_file({"x": torch.full((3, 2, 5), 0.5, dtype=torch.bfloat16)}, tmp_path / "b.safetensors")
    assert read(tmp_path / "b.safetensors").pixels.unique().tolist() == [0.5]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), 255.0), "values from 255 to 255"),
        (np.full((4, 4, 3), -1.0), "values from -1 to -1"),
        (np.array([[0.5, np.nan]]), "values from nan to nan"),
        (np.zeros((4, 4, 3), np.int64), "numbers of type int64"),
        (np.zeros((4, 4, 3), bool), "numbers of type bool"),
        (np.zeros((4, 4), np.complex64), "numbers of type complex64"),
        (np.zeros(7), r"shape \(7,\)"),
        (np.zeros((4, 4, 3))[..., :0], r"shape \(4, 4, 0\)"),
        (np.zeros((9, 5, 5, 2)), r"shape \(9, 5, 5, 2\)"),
        (np.zeros((9, 5, 5, 3)), "has changed since it was listed"),
    ],
)
def test_arrays_that_are_not_images(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ImageError, match=f"x.npy.*{message}") as caught:
        read(tmp_path / "x.npy")
    assert caught.value.hint


def test_floating_point_may_be_out_of_range_by_rounding(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[-5e-7, 1 + 5e-7]]))
    assert read(tmp_path / "x.npy").pixels[0].tolist() == [[0, 1]]


def test_an_npz_is_decoded_once_for_all_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros((5, 4, 4, 3), np.uint8))
    opened = []
    monkeypatch.setattr(npy, "NpzArray", lambda *a: opened.append(a) or NpzArray(*a))
    for index in range(5):
        read(path, key="x", index=index)
    assert len(opened) == 1
    np.savez_compressed(path, x=np.full((5, 4, 4, 3), 255, np.uint8))
    os.utime(path, ns=(1, 1))
    assert read(path, key="x", index=0).pixels.min() == 1


def test_a_key_that_is_gone(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((4, 4)))
    with pytest.raises(ImageError, match="no array 'b'"):
        read(tmp_path / "x.npz", key="b")
    np.savez(tmp_path / "x.npz", a=np.zeros((9, 5, 5, 3)))
    read(tmp_path / "x.npz", key="a", index=8)
    with pytest.raises(ImageError, match=r"x.npz has changed since it was listed"):
        read(tmp_path / "x.npz", key="a", index=9)


def bomb(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_size_is_checked_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(60_000, 60_000))
    with pytest.raises(ImageError, match=r"bomb.png is 60000 x 60000 pixels, more than the limit of 50,000,000"):
        read(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="60000 x 60000"):
        image_size(discover([str(tmp_path / "bomb.png")]).sources[0])
    np.save(tmp_path / "x.npy", np.zeros((4, 6), np.uint8))
    for path in (tmp_path / "x.npy", tmp_path / "x.png"):
        Image.new("L", (6, 4)).save(tmp_path / "x.png")
        source = Source(path, None, None, PurePosixPath("x"))
        read_image(source, max_pixels=24)
        with pytest.raises(ImageError, match="6 x 4 pixels"):
            read_image(source, max_pixels=23)


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.tiff", "x.gif", "x.npy", "x.npz"])
def test_damage_of_every_kind_is_an_image_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.startswith("x.np"):
        (np.save if name == "x.npy" else np.savez)(path, np.asarray(noise()))
    else:
        noise().save(path)
    whole = path.read_bytes()
    assert read(path).pixels.shape == (3, 64, 64)
    for keep in (2, 12, 60, len(whole) // 2):
        path.write_bytes(whole[:keep])
        with pytest.raises(ImageError, match=f"{name} ") as caught:
            read(path)
        assert caught.value.hint
    generator = np.random.default_rng(1)
    for _ in range(30):  # flipped bytes may still be an image, or else are an ImageError, and nothing else
        broken = bytearray(whole)
        for position in generator.integers(0, min(len(whole), 400), 6):
            broken[position] = generator.integers(256)
        path.write_bytes(broken)
        try:
            read(path)
        except ImageError as error:
            assert name in str(error)


def test_paths_that_are_no_readable_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello, this is not a picture")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "empty.png": "is empty",
        "text.png": "is not an image of a known format",
        "folder.png": "is a folder",
        "link.png": "does not exist",
        "pipe.png": "is not a regular file",
        "gone.npy": "does not exist",
    }.items():
        with pytest.raises(ImageError, match=f"{name} {message}"):
            read(tmp_path / name)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(headers.Image, "open", refuse)
    with pytest.raises(ImageError, match=r"text.png may not be read: permission denied"):
        read(tmp_path / "text.png")


def test_rounding_to_eight_bits() -> None:
    levels = torch.arange(256) / 255
    assert to_uint8(levels).tolist() == list(range(256))
    assert to_uint8(torch.tensor([-0.1, 0.4 / 255, 0.6 / 255, 1.1])).tolist() == [0, 0, 1, 255]
    assert to_uint8(levels.half()).tolist() == list(range(256))


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".tif", ".bmp", ".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparent", [False, True])
def test_written_images_are_read_back_unchanged(
    suffix: str, channels: Literal[1, 3], transparent: bool, tmp_path: Path
) -> None:
    path = tmp_path / f"new/deep/x{suffix}"
    pixels = gradient()[:channels]
    alpha = gradient()[1] if transparent else None
    if transparent and suffix == ".bmp":
        with pytest.raises(ImageError, match=r"x.bmp cannot hold the transparency") as caught:
            write_image(path, pixels, alpha)
        assert "--format png" in caught.value.hint
        assert not path.exists()
        return
    write_image(path, pixels, alpha)
    image = read(path, channels)
    torch.testing.assert_close(image.pixels, pixels, rtol=0, atol=1e-6)
    assert (image.alpha is None) == (alpha is None)
    if image.alpha is not None:
        torch.testing.assert_close(image.alpha, alpha, rtol=0, atol=1e-7)
    assert list(path.parent.iterdir()) == [path]


def test_jpeg_is_close_and_arrays_are_not_rounded(tmp_path: Path) -> None:
    smooth = torch.linspace(0, 1, 32).expand(3, 32, 32)
    write_image(tmp_path / "x.jpg", smooth)
    assert (read(tmp_path / "x.jpg").pixels - smooth).abs().max() < 0.02
    with Image.open(tmp_path / "x.jpg") as picture:
        assert picture.format == "JPEG"
    write_image(tmp_path / "x.npy", smooth / 3)
    assert np.load(tmp_path / "x.npy").dtype == np.float32
    assert torch.equal(read(tmp_path / "x.npy").pixels, smooth / 3)
    write_image(tmp_path / "x.npz", smooth)
    assert np.load(tmp_path / "x.npz")["image"].shape == (3, 32, 32)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    write_bytes = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        write_bytes(self, data[: len(data) // 2])
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "write_bytes", half)
    full = number in (errno.ENOSPC, errno.EDQUOT)
    with pytest.raises(OutOfSpaceError if full else ImageError, match=f"x.png.*{os.strerror(number)}"):
        write_image(path, gradient())
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_failed_write_names_path_and_reason(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path, pixels, message in (
        (tmp_path / "folder.png", gradient(), "cannot be written"),
        (tmp_path / "file/x.png", gradient(), "cannot be written"),
        (tmp_path / "x.xyz", gradient(), "cannot be encoded: there is no format '.xyz'"),
        (tmp_path / "x.webp", gradient(1, 20_000), "cannot be encoded"),
        (tmp_path / "x.png", gradient() * torch.nan, "not all of its pixels are finite"),
    ):
        with pytest.raises(ImageError, match=message):
            write_image(path, pixels)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "folder.png"]
