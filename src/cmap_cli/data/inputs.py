"""Which images to process: the arguments of a command -> Sources, each with its place below the output folder.

Files are opened for their headers only, and nothing here imports torch. A damaged file is an
`ImageError`, which stops that file; a wrong argument is a `UsageError`, which stops the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from cmap_cli.data.headers import READABLE, SUFFIXES, ArrayImages, explain, inspect_array, picture_size
from cmap_cli.errors import CmapError, ImageError, UsageError, collecting, raise_all


@dataclass(frozen=True, slots=True)
class Source:
    """One image to process.

    Attributes:
        path: the file it is in.
        index: which image of an array file with a batch axis, from 0; None when the file is one image.
        array_key: the array's name in an .npz or .safetensors file, else None.
        relative: its place below the output folder, with the input's suffix (none when `index` is set).
    """

    path: Path
    index: int | None
    array_key: str | None
    relative: PurePosixPath

    def __str__(self) -> str:
        key = "" if self.array_key is None else f":{self.array_key}"
        return f"{self.path}{key}" if self.index is None else f"{self.path}{key}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that was found but cannot be processed, and why; the others are processed."""

    path: str
    error: ImageError


@dataclass(slots=True)
class Discovery:
    """The images that the arguments name.

    Attributes:
        sources: the images, in the order of the arguments.
        failures: the inputs that cannot be processed.
        folders: every folder that was named or matched, for `check_output_folder`.
        skipped: how many files of other kinds were passed over in folders and patterns.
        named: positions in ``sources`` of images in files that were named or matched -> the folder of the file.
    """

    sources: list[Source] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    skipped: int = 0
    named: dict[int, Path] = field(default_factory=dict)

    def fail(self, path: str | Path, error: CmapError) -> None:
        """Notes a failure. What stops the run if it is an argument stops only this file if it is in a folder."""
        failure = error if isinstance(error, ImageError) else ImageError(error.message, error.hint)
        self.failures.append(Failure(str(path), failure))

    @property
    def total(self) -> int:
        """How many sources and failures."""
        return len(self.sources) + len(self.failures)


def discover(arguments: Sequence[str], stdin: Iterable[str] | None = None, *, below: Path | None = None) -> Discovery:
    """Lists the images that the arguments name.

    An argument is a file; a folder (its files, then its subfolders, each by name; hidden ones are left out;
    symbolic links are followed, but never back into a folder they are in); a glob pattern if nothing has
    that very name ("**" is recursive); an array in a file ("file.npz:key"); or "-", for paths from `stdin`,
    one per line or separated by NUL.

    The output folder mirrors the folders of the inputs. A file in a folder that was named keeps its path below
    that folder. All other files together keep their paths below the deepest folder that holds all of them:
    photos/x.jpg goes to x.jpg, whether it or its folder was named, and a pattern does the same whether the
    shell or cmap expands it. Image 7 of the batch a.npy goes to a/000007.

    In folders and patterns, files of other kinds are skipped and counted; a file that is named is tried.

    Args:
        arguments: as typed.
        stdin: the text of standard input in lines, for "-"; a bad path in it does not stop the run.
        below: the folder to use instead of the deepest one; files outside of it keep only their names.

    Raises:
        UsageError: arguments that are missing or name no image; all are listed.
    """
    found = Discovery()
    problems: list[CmapError] = []
    for argument in arguments:
        with collecting(problems):
            if argument == "-":
                _add_lines(found, stdin)
            else:
                _add(found, argument)
    raise_all(problems)
    _place_named(found, below)
    found.sources = list(dict.fromkeys(found.sources))  # the same file named twice is done once
    return found


def _add_lines(found: Discovery, stdin: Iterable[str] | None) -> None:
    try:
        text = "\n".join(line.removesuffix("\n") for line in stdin or ())
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not a list of paths: {error}", "Pipe paths, not pictures") from error
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise UsageError("standard input names no image", "Pipe one path per line: find photos -name '*.png' | ...")
    for line in lines:
        try:
            _add(found, line, patterns=False)
        except UsageError as error:
            found.fail(line, error)


def _add(found: Discovery, text: str, *, patterns: bool = True) -> None:
    """Adds what one argument names: a file or folder of that name, else an array, else a pattern."""
    path = Path(text)
    array = re.fullmatch(r"(.+?\.(?:npz|safetensors)):(.+)", text, re.DOTALL)
    if text and os.path.lexists(path):
        if _is_folder(path):
            _add_folder(found, path)
        else:
            _add_named(found, path)
    elif array and os.path.lexists(array[1]):
        _add_named(found, Path(array[1]), array[2])
    elif patterns and re.search(r"[*?\[]", text):
        _add_pattern(found, text)
    else:
        raise UsageError(f"{text!r} cannot be found", "Name a file, a folder, a pattern in quotes, or - for stdin")


def _add_named(found: Discovery, path: Path, key: str | None = None) -> None:
    """Adds a file that is in no named folder; :func:`_place_named` sets the place of its result."""
    before = len(found.sources)
    _add_file(found, path, PurePosixPath(path.name), key)
    folder = Path(os.path.normpath(Path.cwd() / path.parent))  # not resolve(): a link keeps the name it was given
    found.named.update(dict.fromkeys(range(before, len(found.sources)), folder))


def _place_named(found: Discovery, below: Path | None) -> None:
    """Places the images in named files below the folder that holds all of them, or below a given one."""
    folders = set(found.named.values())
    if not folders:
        return
    try:
        root = below or Path(os.path.commonpath(folders))
    except ValueError:  # several drives of Windows: names alone, which may clash and are then refused
        root = Path()
    places = {folder: folder.relative_to(root) if folder.is_relative_to(root) else Path() for folder in folders}
    for position, folder in found.named.items():
        source = found.sources[position]
        place = PurePosixPath(places[folder].as_posix()) / source.relative
        found.sources[position] = replace(source, relative=place)


def _add_file(found: Discovery, path: Path, relative: PurePosixPath, key: str | None = None) -> None:
    """Adds the one image or the many images of a file.

    Raises:
        UsageError: which array of the file is meant is not clear.
    """
    try:
        array = inspect_array(path, key)
    except ImageError as error:
        found.fail(path, error)
        return
    if array is None or array.count is None:
        found.sources.append(Source(path, None, array.key if array else None, relative))
        return
    folder = relative.with_suffix("")
    found.sources.extend(Source(path, i, array.key, folder / f"{i:06d}") for i in range(array.count))


def _add_if_image(
    found: Discovery, path: Path, suffixes: Collection[str], relative: PurePosixPath | None = None
) -> None:
    """Adds a file of a folder or pattern; files of another kind are skipped, and damaged ones do not stop the run."""
    if path.suffix.lower() not in suffixes:
        found.skipped += 1
        return
    try:
        if relative is None:
            _add_named(found, path)
        else:
            _add_file(found, path, relative)
    except UsageError as error:
        found.fail(path, error)


def _add_pattern(found: Discovery, pattern: str) -> None:
    """Adds the files a pattern matches, and the folders too unless "**" goes into them anyway."""
    before, parts = found.total, Path(pattern).parts
    wanted = SUFFIXES | {Path(pattern).suffix.lower() or ".png"}
    try:
        anchor = Path(pattern).anchor
        below = Path(*parts[bool(anchor) :], *["*"] * (parts[-1] == "**"))  # "**" alone would be folders only
        matches = sorted(Path(anchor).glob(str(below)))  # does not follow links in "**"
    except (OSError, ValueError) as error:
        raise UsageError(f"{pattern!r} is not a pattern: {error}", 'Any folder is "**/", any name is "*"') from error
    for path in matches:
        if any(part.startswith(".") and part not in parts for part in path.parts):
            continue
        if _is_folder(path):
            if "**" not in parts:
                with suppress(UsageError):  # an empty folder is one more thing that is not an image
                    _add_folder(found, path)
        else:
            _add_if_image(found, path, wanted)
    if found.total == before:
        raise UsageError(f"the pattern {pattern!r} matches no image", READABLE)


def _add_folder(found: Discovery, root: Path) -> None:
    before = found.total
    found.folders.append(root)
    for path, relative in _walk(found, root):
        _add_if_image(found, path, SUFFIXES, relative)
    if found.total == before:
        raise UsageError(f"the folder {str(root)!r} holds no image", READABLE)


def _walk(found: Discovery, root: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    """The visible files below a folder and their paths below it; a folder that cannot be listed becomes a failure."""
    pending: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while pending:
        folder, prefix, ancestors = pending.pop()
        subfolders = []
        try:
            status = folder.stat()
            chain = ancestors | {(status.st_dev, status.st_ino)}
            if chain == ancestors:
                continue  # a symbolic link back to a folder that it is in
            with os.scandir(folder) as entries:
                listed = sorted((entry.name, entry.path, _is_folder(entry)) for entry in entries)
        except OSError as error:
            found.fail(folder, explain(folder, error))
            continue
        for name, path, is_folder in listed:
            if name.startswith("."):
                continue
            if is_folder:
                subfolders.append((Path(path), f"{prefix}{name}/", chain))
            else:
                yield Path(path), PurePosixPath(prefix + name)
        pending.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str] | Path) -> bool:
    try:
        return entry.is_dir()
    except (OSError, ValueError):  # such as a symbolic link to itself: reading it will say what is wrong
        return False


def image_size(source: Source) -> tuple[int, int]:
    """(width, height) in pixels as a viewer shows the image, from the file's header.

    Raises:
        ImageError: the header cannot be read.
    """
    array = inspect_source(source)
    return picture_size(source.path) if array is None else array.size


def inspect_source(source: Source) -> ArrayImages | None:
    """The array that a source is in, from the file's header; None for a picture.

    Raises:
        ImageError: the header cannot be read, or the image is not in the file any more.
    """
    try:
        array = inspect_array(source.path, source.array_key)
    except UsageError as error:
        raise ImageError(error.message, error.hint) from error
    count = array.count if array else None
    if (source.index is None) != (count is None) or (source.index or 0) >= (count or 1):
        raise ImageError(f"{source.path} has changed since it was listed", "Run it again")
    return array
