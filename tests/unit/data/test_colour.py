"""Colour profiles and HEIC: pictures as phones and photographers have them."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms

from cmap_cli.data.images import read_image, to_uint8
from cmap_cli.data.inputs import Source, discover, image_size
from cmap_cli.errors import ImageError, pip_install
from tests.conftest import Run

Matrix = NDArray[np.float64]
SRGB = [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.71410]]
DISPLAY_P3 = [[0.51512, 0.24120, -0.00105], [0.29198, 0.69225, 0.04189], [0.15710, 0.06657, 0.78407]]
ADOBE_RGB = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]
"""X, Y, Z (D50) of red, green and blue, from the profiles' specifications."""
SRGB_CURVE = struct.pack(
    ">4s4xHxx5i", b"para", 3, *(round(65536 * v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)
ADOBE_CURVE = struct.pack(">4s4xIHxx", b"curv", 1, round(256 * 563 / 256))


def fixed(*numbers: float) -> bytes:
    return struct.pack(f">4s4x{len(numbers)}i", b"XYZ ", *(round(65536 * number) for number in numbers))


def profile(tags: dict[bytes, bytes], space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2 with these tags."""
    tags = {
        b"desc": struct.pack(">4s4xI5s78x", b"desc", 5, b"test\0"),
        b"cprt": struct.pack(">4s4x4s", b"text", b"none"),
        b"wtpt": fixed(0.9642, 1, 0.8249),
        **tags,
    }
    table, content = b"", b""
    start = 132 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, start + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    body = struct.pack(">I", len(tags)) + table + content
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    white = struct.pack(">3i", *(round(65536 * v) for v in (0.9642, 1, 0.8249)))
    head = struct.pack(
        ">I4sI4s4s4s12s4s", 128 + len(body), b"\0\0\0\0", 0x02400000, b"mntr", space, b"XYZ ", date, b"acsp"
    )
    return head + bytes(28) + white + bytes(128 - 80) + body


def rgb_profile(primaries: list[list[float]], curve: bytes) -> bytes:
    columns = {name: fixed(*column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return profile(columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def linear(x: Matrix) -> Matrix:
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def encoded(x: Matrix) -> Matrix:
    x = x.clip(0, 1)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


def colours() -> NDArray[np.uint8]:
    """(12, 30, 3): random colours, the last rows near grey."""
    random = np.random.RandomState(0)
    values = random.randint(0, 256, (12, 30, 3))
    values[6:] = (random.randint(30, 226, (6, 30, 1)) + random.randint(-20, 21, (6, 30, 3))).clip(0, 255)
    return values.astype(np.uint8)


def read(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) as it would be saved."""
    pixels = read_image(Source(path, None, None, PurePosixPath(path.name))).pixels
    read: NDArray[np.uint8] = to_uint8(pixels).movedim(0, -1).numpy()
    return read


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".jpg"])
def test_display_p3_becomes_srgb(suffix: str, tmp_path: Path) -> None:
    stored = colours()
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    icc = rgb_profile(DISPLAY_P3, SRGB_CURVE)
    Image.fromarray(stored).save(tmp_path / f"x{suffix}", icc_profile=icc, **options)
    Image.fromarray(stored).save(tmp_path / f"without{suffix}", **options)
    raw = read(tmp_path / f"without{suffix}")
    expected = 255 * encoded(linear(raw / 255) @ np.array(DISPLAY_P3) @ np.linalg.inv(SRGB))
    got = read(tmp_path / f"x{suffix}")
    assert np.abs(got - expected).max() <= 2
    assert np.abs(got.astype(int) - raw).max() > 20


def test_adobe_rgb_becomes_srgb(tmp_path: Path) -> None:
    stored = colours()
    Image.fromarray(stored).save(tmp_path / "x.png", icc_profile=rgb_profile(ADOBE_RGB, ADOBE_CURVE))
    expected = 255 * encoded((stored / 255) ** (563 / 256) @ np.array(ADOBE_RGB) @ np.linalg.inv(SRGB))
    assert np.abs(read(tmp_path / "x.png") - expected).max() <= 2


def test_pixels_in_srgb_keep_their_exact_values(tmp_path: Path) -> None:
    """An attack of a few levels must not be rounded away by a profile that says what is so anyway."""
    stored = colours()
    for name, icc in {
        "own.png": rgb_profile(SRGB, SRGB_CURVE),
        "pillow.png": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "broken.png": b"no profile",
        "cmyk.png": profile({}, b"CMYK"),
    }.items():
        Image.fromarray(stored).save(tmp_path / name, icc_profile=icc)
        assert np.array_equal(read(tmp_path / name), stored), name


def test_transparency_and_palettes_go_through_the_profile(tmp_path: Path) -> None:
    icc = rgb_profile(ADOBE_RGB, ADOBE_CURVE)
    stored = colours()
    Image.fromarray(stored).save(tmp_path / "rgb.png", icc_profile=icc)
    alpha = np.arange(12 * 30, dtype=np.uint8).reshape(12, 30, 1)
    Image.fromarray(np.concatenate([stored, alpha], -1)).save(tmp_path / "rgba.png", icc_profile=icc)
    image = read_image(Source(tmp_path / "rgba.png", None, None, PurePosixPath("rgba.png")))
    assert image.alpha is not None
    assert np.array_equal(to_uint8(image.alpha).numpy(), alpha[..., 0])
    assert np.array_equal(to_uint8(image.pixels).movedim(0, -1).numpy(), read(tmp_path / "rgb.png"))
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 255, 0, 100, 20, 200])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", icc_profile=icc)
    palette.convert("RGB").save(tmp_path / "same.png", icc_profile=icc)
    assert np.array_equal(read(tmp_path / "p.png"), read(tmp_path / "same.png"))


def test_grey_goes_through_its_profile_and_stays_grey(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    grey = profile({b"kTRC": struct.pack(">4s4xIHxx", b"curv", 1, round(256 * 1.8))}, b"GRAY")
    Image.fromarray(ramp).save(tmp_path / "l.png", icc_profile=grey)
    Image.fromarray(np.stack([ramp, ramp], -1)).save(tmp_path / "la.png", icc_profile=grey)
    got = read(tmp_path / "l.png")
    assert np.abs(got - 255 * encoded((ramp[..., None] / 255) ** 1.8)).max() <= 2
    assert np.array_equal(got, got[..., :1].repeat(3, -1))
    assert np.array_equal(read(tmp_path / "la.png"), got)
    deep = np.array([[0, 1000, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", icc_profile=grey)
    pixels = read_image(Source(tmp_path / "deep.png", None, None, PurePosixPath("deep.png"))).pixels
    torch.testing.assert_close(pixels[0], torch.tensor(deep / 65535).float())


def test_a_purified_picture_has_no_profile_and_no_metadata(invoke: Run, small_model: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    picture = Image.fromarray(colours()[:8, :16])
    picture.save(tmp_path / "in.jpg", exif=exif, icc_profile=rgb_profile(DISPLAY_P3, SRGB_CURVE), comment=b"a note")
    run = invoke("purify", "in.jpg", "--out", "out", "--model", small_model, "--fit", "tile", "--steps", "2")
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "out" / "in.png") as written:
        assert written.size == (8, 16)
        assert not set(written.info) & {"exif", "icc_profile", "comment"}
        assert not written.getexif()


def heic(path: Path, pixels: NDArray[np.uint8], **options: object) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs cmap-cli[heic]")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(buffer, quality=-1, chroma=444, **options)
    path.write_bytes(buffer.getvalue())


def test_heic_is_read(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24], pixels[24:, 32:] = (250, 10, 10), (10, 10, 250)
    heic(tmp_path / "a.heic", pixels)
    assert np.abs(read(tmp_path / "a.heic").astype(int) - pixels).max() <= 6
    exif = Image.Exif()
    exif[0x0112] = 6
    heic(tmp_path / "turned.heic", pixels, exif=exif.tobytes())
    heic(tmp_path / "named.jpg", pixels)
    found = discover([str(tmp_path)])
    assert [source.path.name for source in found.sources] == ["a.heic", "named.jpg", "turned.heic"]
    sizes = [image_size(source) for source in found.sources]
    assert sizes == [read_image(source).pixels.shape[:0:-1] for source in found.sources]
    assert sizes[0] == (64, 48)


def test_damaged_heic_is_one_error(tmp_path: Path) -> None:
    heic(tmp_path / "a.heic", colours().repeat(4, 0).repeat(4, 1))
    whole = (tmp_path / "a.heic").read_bytes()
    for length in (12, 40, len(whole) // 2, len(whole) - 5):
        (tmp_path / "a.heic").write_bytes(whole[:length])
        with pytest.raises(ImageError, match=r"a\.heic"):
            read(tmp_path / "a.heic")


def test_without_pillow_heif_the_other_pictures_are_purified(
    invoke: Run, images: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (images / "z.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    run = invoke("purify", images, "--out", "out", "--model", small_model, "--steps", "2")
    assert run.returncode == 3, run.stderr
    assert "z.heic is a HEIC picture, which needs pillow-heif to be read" in run.stderr
    assert pip_install("heic") in run.stderr
