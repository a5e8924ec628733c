"""NumPy's .npy and .npz formats, from untrusted sources: headers are checked before anything is mapped or allocated."""

from __future__ import annotations

import math
import warnings
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import IO, Any

import numpy as np

from cmap_cli.errors import ImageError

MAX_WHOLE_BYTES = 256 << 20
"""Largest array, in bytes, that is read as a whole: arrays in Fortran order, and labels."""


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """A checked header.

    Attributes:
        shape: of the array, each at least 0.
        dtype: of its elements.
        fortran_order: whether the first index changes fastest.
        offset: bytes before the numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def is_numeric(self) -> bool:
        """Whether the elements are values of a fixed size, and not Python objects or strings of no length."""
        return not self.dtype.hasobject and self.dtype.itemsize > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def require_numeric(self, where: str) -> None:
        """Refuse elements that cannot be mapped or read as bytes (ImageError)."""
        if not self.is_numeric:
            raise ImageError(
                f"{where} cannot be read: its elements are of type {self.dtype}, not numbers",
                "Save it as uint8, uint16 or float",
            )

    def require_small(self, where: str) -> None:
        """Refuse an array that is too large to be read as a whole (ImageError)."""
        if self.nbytes > MAX_WHOLE_BYTES:
            raise ImageError(
                f"{where} is one array of {self.nbytes:,} bytes that cannot be read item by item",
                "Save it in C order with the images along the first axis, or as .npy",
            )


def read_header(stream: IO[bytes], size: int, where: str) -> NpyHeader:
    """Read and check the header at the beginning of a stream.

    Args:
        stream: at the first byte of the .npy data.
        size: bytes of header and numbers together.
        where: the file's name in the message.

    Raises:
        ImageError: a dimension is negative, or there are fewer bytes than the header claims.
        ValueError: the bytes are not a header, as NumPy says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a header written by Python 2 is not worth a line on stderr
        first = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    header = NpyHeader(shape, dtype, fortran_order, stream.tell())
    if any(type(side) is not int or side < 0 for side in shape):
        raise ImageError(f"{where} is damaged: its array has the shape {shape}", "Copy or download it again")
    if header.is_numeric and header.offset + header.nbytes > size:
        raise ImageError(
            f"{where} is damaged or cut short: its header claims {header.nbytes:,} bytes of numbers, it has "
            f"{max(0, size - header.offset):,}",
            "Copy or download it again",
        )
    return header


def npy_header(path: Path) -> NpyHeader:
    """The checked header of an .npy file of numbers; errors as :func:`read_header`."""
    with path.open("rb") as stream:
        header = read_header(stream, path.stat().st_size, str(path))
    header.require_numeric(str(path))
    return header


def npz_headers(path: Path) -> dict[str, NpyHeader]:
    """The checked header of every array in an .npz file by name; errors as :func:`read_header`."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    headers[name] = read_header(stream, member.file_size, f"{path}:{name}")
                if headers[name].fortran_order and len(headers[name].shape) > 1:
                    headers[name].require_small(f"{path}:{name}")
    return headers


def npy_item(path: Path, index: int | None) -> np.ndarray[Any, Any]:
    """One item along the first axis of an .npy file, or all of it for None; mapped, so nothing else is read."""
    npy_header(path)
    return np.asarray(np.load(path, mmap_mode="r")[slice(None) if index is None else index])


class NpzArray:
    """One array of an .npz file, read item by item along its first axis, so that memory does not grow with it.

    Going back to an earlier item starts again at the beginning, because the file is compressed as one stream.

    Args:
        path: of the file.
        key: name of the array.

    Raises:
        ImageError: as :func:`read_header`.
        KeyError: there is no such array.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.where = f"{path}:{key}"
        self.lock = Lock()
        self.archive = zipfile.ZipFile(path)
        try:
            self.member = self.archive.getinfo(f"{key}.npy")
            self.rewind()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        """Close the file when the next one takes its place."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        for file in ("stream", "archive"):
            if hasattr(self, file):
                getattr(self, file).close()

    def rewind(self) -> None:
        """Go to the first item."""
        self.stream = self.archive.open(self.member)
        self.header = read_header(self.stream, self.member.file_size, self.where)
        self.header.require_numeric(self.where)
        self.next = 0

    def item(self, index: int | None) -> np.ndarray[Any, Any]:
        """Item ``index`` along the first axis, or the whole array for None."""
        if index is None:
            return self.whole()
        if self.header.fortran_order and len(self.header.shape) > 1:
            return np.asarray(self.whole()[index])
        with self.lock:
            if index < self.next:
                self.stream.close()
                self.rewind()
            shape, dtype = self.header.shape[1:], self.header.dtype
            size = math.prod(shape) * dtype.itemsize
            self.skip((index - self.next) * size)
            content = self.read(size)
            self.next = index + 1
        return np.frombuffer(content, dtype).reshape(shape)

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        while count > 0:
            count -= len(self.read(min(count, 1 << 20)))

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes (EOFError if there are fewer)."""
        content = self.stream.read(count)
        if len(content) < count:
            raise EOFError(f"{self.where} ends too early")
        return content

    def whole(self) -> np.ndarray[Any, Any]:
        """The whole array (ImageError if it is larger than 256 MiB)."""
        self.header.require_small(self.where)
        with self.lock, self.archive.open(self.member) as stream:
            header = read_header(stream, self.member.file_size, self.where)
            order = "F" if header.fortran_order else "C"
            return np.frombuffer(stream.read(header.nbytes), header.dtype).reshape(header.shape, order=order)  # type: ignore[call-overload,no-any-return]


@lru_cache(maxsize=1)
def npz_array(path: Path, modified: int, key: str) -> NpzArray:
    """The array, kept open for its next item; ``modified``, in ns, tells a new file of that name."""
    return NpzArray(path, key)
