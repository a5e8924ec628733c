"""Writes a folder of hostile image files: declared sizes that are lies, damaged headers, bombs, foreign content.

``python -m tests.hostile.corpus FOLDER`` writes them for a run from a shell.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


def npy(shape: str, descr: str = "|u1", content: bytes = b"", *, fortran: bool = False, version: int = 1) -> bytes:
    """An .npy file whose header says what it is told to say."""
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + content


def npz(members: dict[str, bytes]) -> bytes:
    """An .npz file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def png(width: int, height: int, content: bytes = b"") -> bytes:
    """A PNG file that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def safetensors(header: bytes, content: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    return struct.pack("<Q", len(header)) + header + content


def picture(kind: str, **options: object) -> bytes:
    """A small real picture."""
    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 60).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def corpus() -> Mapping[str, bytes]:
    """File name -> content; every one of them has to be refused. Made once: the bombs take a second."""
    good = picture("PNG")
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    entry = {"dtype": "U8", "shape": [2**40, 8, 8, 3], "data_offsets": [0, 3 * 2**46]}
    return {
        "empty-dtype.npy": npy("(-1,)", "|S0"),
        "no-bytes.npy": npy("(4, 8, 8, 3)"),
        "negative.npy": npy("(-4, 8, 8, 3)", content=bytes(768)),
        "huge.npy": npy("(1000000000000, 8, 8, 3)", content=bytes(768)),
        "overflow.npy": npy(f"({2**63}, {2**63}, 3)", content=bytes(768)),
        "bool-shape.npy": npy("(True, 8, 8, 3)", content=bytes(192)),
        "objects.npy": npy("(1, 8, 8, 3)", "|O", bytes(2000)),
        "strings.npy": npy("(8, 8, 3)", "|S4", bytes(768)),
        "complex.npy": npy("(8, 8, 3)", "<c8", bytes(1536)),
        "dates.npy": npy("(8, 8, 3)", "<M8[s]", bytes(1536)),
        "expression.npy": npy("(__import__('os').getpid(), 8, 3)", content=bytes(768)),
        "version-9.npy": b"\x93NUMPY\x09\x00" + npy("(8, 8, 3)", content=bytes(192))[8:],
        "long-header.npy": npy("(8, 8, 3)" + " " * 30_000, content=bytes(192)),
        "cut-header.npy": npy("(8, 8, 3)")[:20],
        "many-dots.npy": npy("(20000000, 1, 1, 1)", content=bytes(20_000_000)),
        "one-long-row.npy": npy(f"(1, {2**31 - 1})", content=bytes(64)),
        "huge-member.npz": npz({"x.npy": npy("(1000000000000, 8, 8, 3)", content=bytes(768))}),
        "negative-member.npz": npz({"x.npy": npy("(-5, 8, 8, 3)", content=bytes(768))}),
        "fortran-bomb.npz": npz({"x.npy": npy("(1000, 300, 300, 3)", content=bytes(270_000_000), fortran=True)}),
        "no-array.npz": npz({"readme.txt": b"nothing here"}),
        "not-npy.npz": npz({"x.npy": b"not an array"}),
        "cut-npz.npz": npz({"x.npy": npy("(1, 8, 8, 3)", content=bytes(192))})[:-40],
        "wide.png": png(2**31 - 1, 1),
        "vast.png": png(2**31 - 1, 2**31 - 1),
        "nothing-in-it.png": png(8, 8),
        "bomb.png": png(8_000, 8_000, bytes(1000)),
        "cut.png": good[: len(good) // 2],
        "flipped.png": good[:60] + bytes(b ^ 255 for b in good[60:90]) + good[90:],
        "zero.png": b"",
        "text.png": b"this is no picture",
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
        "cut-jpg.jpg": picture("JPEG")[:200],
        "cut-webp.webp": picture("WEBP")[:60],
        "cut-gif.gif": picture("GIF")[:30],
        "cut-tiff.tiff": picture("TIFF")[:100],
        "huge.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "deep.safetensors": safetensors(deep),
        "lies.safetensors": safetensors(json.dumps({"x": entry}).encode(), bytes(64)),
        "overlap.safetensors": safetensors(b'{"x":{"dtype":"U8","shape":[8,8,3],"data_offsets":[9,2]}}', bytes(192)),
        "utf8.safetensors": safetensors(b'{"\xff\xfe":1}'),
        "longer-than-file.safetensors": struct.pack("<Q", 2**62) + b"{}",
    }


def write_corpus(folder: Path) -> list[str]:
    """Write the corpus below a folder; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    files = corpus()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return list(files)


def write_good(folder: Path) -> list[str]:
    """Write images that are fine beside them: they have to be purified all the same."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "good.png").write_bytes(picture("PNG"))
    (folder / "fine.npy").write_bytes(npy("(8, 8, 3)", content=bytes(192)))
    np.savez_compressed(folder / "well.npz", x=np.zeros((3, 8, 8, 3), np.uint8))
    return ["good.png", "fine.npy", "well.npz"]


if __name__ == "__main__":
    sys.stdout.write("\n".join(write_corpus(Path(sys.argv[1]))) + "\n")
