"""The paths of results, and the format that follows the input's."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from cmap_cli.data.inputs import Source
from cmap_cli.data.outputs import lossless_suffix, output_path

OPAQUE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
TRANSPARENT = OPAQUE.copy()
TRANSPARENT.putalpha(100)


@pytest.mark.parametrize(
    ("name", "options", "transparent", "suffix"),
    [
        ("a.png", {}, False, ".png"),
        ("a.jpg", {}, False, ".png"),
        ("a.gif", {}, False, ".png"),
        ("a.tif", {}, False, ".tif"),
        ("a.TIFF", {}, True, ".tiff"),
        ("a.bmp", {}, False, ".bmp"),
        ("a.bmp", {}, True, ".png"),
        ("a.webp", {}, False, ".png"),
        ("a.webp", {"lossless": True}, False, ".webp"),
        ("a.webp", {"lossless": True, "exif": b"Exif\0\0odd", "icc_profile": b"odd"}, True, ".webp"),
        ("a.webp", {"icc_profile": b"odd"}, True, ".png"),
        ("a.webp", {"lossless": True, "save_all": True, "append_images": [TRANSPARENT]}, False, ".png"),
    ],
)
def test_the_format_follows_that_of_lossless_pictures(
    tmp_path: Path, name: str, options: dict[str, object], transparent: bool, suffix: str
) -> None:
    path = tmp_path / name
    (TRANSPARENT if transparent else OPAQUE).save(path, **options)
    source = Source(path, None, None, PurePosixPath(name))
    assert lossless_suffix(source) == suffix
    assert output_path(source, "") == Path(f"a{suffix}")
    assert output_path(source, ".npy") == Path("a.npy")


@pytest.mark.parametrize("content", [b"", b"BM", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["a.bmp", "a.webp"])
def test_the_format_for_a_truncated_file_is_a_lossless_one(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert lossless_suffix(Source(tmp_path / name, None, None, PurePosixPath(name))) in (".png", ".bmp")


def test_images_of_arrays_and_files_that_are_gone_become_png(tmp_path: Path) -> None:
    assert output_path(Source(tmp_path / "a.npy", 3, None, PurePosixPath("a/000003")), "") == Path("a/000003.png")
    assert output_path(Source(tmp_path / "a.webp", None, None, PurePosixPath("a.webp")), "") == Path("a.png")
