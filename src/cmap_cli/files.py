"""The one place that writes files: temporary name and rename, locks, and one sentence for a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cmap_cli.errors import CmapError, OutOfSpaceError

if TYPE_CHECKING:
    from filelock import FileLock

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".cmap-"
"""How the names of temporary folders begin; they end in ``.tmp``."""
UNLOCKED_SECONDS = 1.0
"""A younger temporary folder may not be locked yet."""
TEMPORARY_SECONDS = 60.0
"""Where folders cannot be locked: no file takes longer to write, an older one was left by a process that was killed."""


def writing_error(path: Path, error: OSError) -> CmapError:
    """The error to raise when a file cannot be written: OutOfSpaceError for a full disk or a quota."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError(
            f"no space left to write {path}: {error.strerror}",
            "free some space; the same command continues where it stopped",
        )
    return CmapError(f"{path} cannot be written: {error.strerror or error}", "choose another folder")


@contextmanager
def explaining_writes(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into the error of :func:`writing_error`."""
    try:
        yield
    except OSError as error:
        raise writing_error(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path; renames it to ``path`` when the block succeeds, removes it otherwise.

    The temporary path is in a folder of its own beside ``path``, because libraries make temporary files beside the
    file that they write. Parent folders are made. A reader sees the old file or the whole new one, never a part.

    Raises:
        OutOfSpaceError: the disk is full or a quota is reached.
        CmapError: the file cannot be written for another reason.
    """
    folder = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}.tmp")
    temporary, lock = folder / path.name, None
    with explaining_writes(path):
        try:
            folder.mkdir(parents=True)
            lock = lock_folder(folder)
            yield temporary
            with suppress(OSError):  # file systems without permissions
                temporary.chmod(folder.stat().st_mode & 0o666)  # as the umask says; safetensors leaves files private
            temporary.replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Lock a folder until the descriptor is closed or this process ends, however it ends.

    Returns:
        The descriptor; None if folders cannot be locked here.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole; errors as :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a UTF-8 text, or its pieces one after the other, as a whole; errors as :func:`replacing`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a temporary file, then rename it to ``path``; errors as :func:`replacing`.

    Args:
        path: the file.
        write: called with the temporary path. Libraries that report a full disk with an error of their own, and no
            errno, are explained as well.
    """
    with replacing(path) as temporary:
        try:
            write(temporary)
        except OSError:
            raise
        except Exception as error:
            if shutil.disk_usage(path.parent).free == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise


def copy_file(source: Path, target: Path) -> None:
    """Copy a file as a whole; errors as :func:`replacing`."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def append_text(path: Path, text: str) -> None:
    """Append to a UTF-8 text in one write (OutOfSpaceError when the disk is full)."""
    with explaining_writes(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


def make_folder(path: Path) -> None:
    """Make a folder and its parents unless they exist (OutOfSpaceError when the disk is full)."""
    with explaining_writes(path):
        path.mkdir(parents=True, exist_ok=True)


def probe(folder: Path, inside: Path) -> None:
    """Make sure that a folder can be made and written to; nothing of it is left.

    Args:
        folder: that exists; what killed processes left directly in it is removed.
        inside: the new folder's path below it. It is tried in another place, because another process of the same job
            may be making it just now.

    Raises:
        OSError: it cannot.
    """
    for left in folder.glob(f"{TEMPORARY}*.tmp"):
        with suppress(OSError):
            remove_abandoned(left)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, suffix=".tmp", dir=folder) as made:
        (Path(made) / inside).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=made):
            pass


def sweep_temporaries(folder: Path) -> int:
    """Remove what killed processes were writing in a folder and the folders below it.

    Args:
        folder: to look through; symbolic links are not followed.

    Returns:
        How many temporary files and folders were removed.
    """
    removed = 0
    for parent, folders, names in os.walk(folder):
        for name in [name for name in (*folders, *names) if name.startswith(TEMPORARY) and name.endswith(".tmp")]:
            with suppress(OSError):
                removed += remove_abandoned(Path(parent, name))
            if name in folders:
                folders.remove(name)
    return removed


def remove_abandoned(temporary: Path) -> bool:
    """Remove a temporary folder, or file of an earlier version, unless a process may still write it."""
    age = time.time() - temporary.stat().st_mtime
    if not temporary.is_dir():
        if age >= TEMPORARY_SECONDS:
            temporary.unlink()
        return age >= TEMPORARY_SECONDS
    if age < UNLOCKED_SECONDS:
        return False
    try:
        lock = lock_folder(temporary)
    except BlockingIOError:
        return False
    if lock is None:
        ages = [time.time() - path.stat().st_mtime for path in temporary.iterdir()]
        if min([age, *ages]) < TEMPORARY_SECONDS:
            return False
    shutil.rmtree(temporary, ignore_errors=True)
    if lock is not None:
        os.close(lock)
    return True


def take_lock(path: Path, seconds: float = 0) -> FileLock | None:
    """The lock of a file; it is released with the process that holds it, however that process ends.

    Args:
        path: of the file, which need not exist.
        seconds: how long to wait for another process.

    Returns:
        None if another process holds it.
    """
    from filelock import FileLock, Timeout  # slow to import, and --help locks nothing

    lock = FileLock(lock_path(path))
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    except NotImplementedError:  # a file system without locks: nothing can be protected there
        return lock
    except OSError as error:
        raise writing_error(path, error) from error
    return lock


def lock_path(path: Path) -> Path:
    """The lock file of a file."""
    return path.with_name(f".{path.name}.lock")


def lock_target(lock: Path) -> Path:
    """The file that a lock file belongs to."""
    return lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))


def release_lock(lock: FileLock | None) -> None:
    """Release a lock and remove its file."""
    if lock is not None and lock.is_locked:
        with suppress(OSError):  # before it is released: afterwards the file can be another process's
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
