"""Download one whole file; the only module that sends HTTP requests."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import requests
import urllib3
from requests.adapters import HTTPAdapter

from cmap_cli import __version__
from cmap_cli.errors import CmapError, OutOfSpaceError, WeightsError
from cmap_cli.files import write_text, writing_error
from cmap_cli.models.weights.documents import PartNotes
from cmap_cli.runs.documents import encode, read_document

BLOCK = 1 << 20
WORTHWHILE = 1 << 16
"""An interrupted attempt that added at least so many bytes does not count as failed."""
LONGEST_PAUSE = 60.0
WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        timeout: seconds without an answer or a byte.
        attempts: how many attempts in a row may add almost nothing before the download fails.
        pause: seconds before the second attempt; doubled for each further one.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


class InterruptedTransferError(Exception):
    """An interrupted transfer that the next attempt may continue."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class MissingFileError(WeightsError):
    """The server has no such file."""


class ForbiddenError(WeightsError):
    """The server asks for authentication, or refuses the request.

    Args:
        message: what happened.
        reason: the error code that the server gave, "" if none.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class PageError(Exception):
    """A server answered with a web page where a file was asked for."""

    def __init__(self, url: str, page: str) -> None:
        super().__init__(f"{url} answers with a web page, not with the file")
        self.page = page


def fetch(
    url: str,
    target: Path,
    size: tuple[int, int],
    patience: Patience,
    on_bytes: OnBytes,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Download a file, continuing an unfinished download of an earlier call or process.

    Args:
        url: http or https; proxies of the environment are honoured.
        target: the file to write. If it exists it is continued, if the server's file is still the same one
            (its ETag or date, kept in ``target`` + ".json").
        size: smallest and largest plausible number of bytes; more are never written.
        patience: when to give up.
        on_bytes: called with the number of bytes that are there.
        headers: sent to the server of ``url``, such as ``Authorization``; not to another host to which it redirects.

    Raises:
        WeightsError: the file could not be downloaded, with the reason. The received part is kept for the next call,
            unless it is wrong.
        ForbiddenError: the server refuses access.
        OutOfSpaceError: the disk is full.
        PageError: a web page came.
    """
    with requests.Session() as session:
        session.mount("https://", HTTPAdapter(max_retries=0))
        session.headers.update({"User-Agent": f"cmap-cli/{__version__}", "Accept-Encoding": "identity", **headers})
        in_vain, farthest = 0, target.stat().st_size if target.exists() else 0
        while True:
            try:
                transfer(session, url, target, size, patience.timeout, on_bytes)
                return
            except (InterruptedTransferError, requests.RequestException) as error:
                if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema):
                    raise WeightsError(f"{url} is no address: {error}") from error
                here = target.stat().st_size if target.exists() else 0
                in_vain = 0 if here >= farthest + WORTHWHILE else in_vain + 1
                farthest = max(farthest, here)
                if in_vain >= patience.attempts:
                    tried = "1 attempt" if in_vain == 1 else f"{in_vain} attempts"
                    raise WeightsError(f"{url} could not be downloaded in {tried}: {cause(error)}") from error
                wait = error.wait if isinstance(error, InterruptedTransferError) else 0.0
                time.sleep(min(LONGEST_PAUSE, max(wait, patience.pause * 2**in_vain / 2)))
            except OSError as error:
                raise writing_error(target, error) from error


def transfer(
    session: requests.Session, url: str, target: Path, size: tuple[int, int], timeout: float, on_bytes: OnBytes
) -> None:
    """One attempt of :func:`fetch`."""
    notes = target.with_name(f"{target.name}.json")
    before = read_notes(notes, url) if target.exists() else None
    here = target.stat().st_size if before else 0
    if before and here == before.total:
        return
    headers = {}
    if here and before and before.version:
        headers = {"Range": f"bytes={here}-", "If-Range": before.version}
    with session.get(url, stream=True, timeout=timeout, headers=headers) as answer:
        refuse_answer(url, answer, target)
        resumes = answer.status_code == requests.codes.partial_content
        if resumes and not answer.headers.get("Content-Range", "").startswith(f"bytes {here}-"):
            target.unlink()
            raise InterruptedTransferError("it sends another range than the one asked for")
        done = here if resumes else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length is not None and length.isdecimal() else None
        blocks = as_they_come(answer)
        first = next(blocks, b"")
        if "text/html" in answer.headers.get("Content-Type", "") or (not done and looks_like_html(first)):
            raise PageError(url, first.decode("utf-8", "replace"))
        if total is not None:
            refuse_size(url, total, size)
            refuse_full_disk(target, total - done)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        version = None if version is None or version.startswith("W/") else version
        write_text(notes, encode(PartNotes(url, version, total), indent=None))
        write_blocks(target, first, blocks, done, url, size, on_bytes)
    done = target.stat().st_size
    if total is not None and done < total:
        raise InterruptedTransferError(f"it stopped after {done} of {total} bytes")
    if done < size[0]:
        target.unlink()
        refuse_size(url, done, size)


def refuse_answer(url: str, answer: requests.Response, target: Path) -> None:
    """Raise the error for an answer without the file: an InterruptedTransferError where another attempt may help."""
    for step in (*answer.history[1:], answer):
        if url.startswith("https:") and not step.url.startswith("https:"):
            raise WeightsError(f"{url} leads to {step.url}, which is not encrypted")
    status = f"it answers {answer.status_code} {answer.reason}"
    if answer.status_code == requests.codes.requested_range_not_satisfiable:
        target.unlink()
        raise InterruptedTransferError("the server's file is another one than before")
    if answer.status_code in WORTH_ANOTHER_TRY:
        raise InterruptedTransferError(status, retry_after(answer))
    refusal = f"{url} could not be downloaded: {status}"
    if answer.status_code == requests.codes.not_found:
        raise MissingFileError(refusal)
    if answer.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
        raise ForbiddenError(refusal, answer.headers.get("X-Error-Code", ""))
    if not answer.ok:
        raise WeightsError(refusal)


def as_they_come(answer: requests.Response) -> Iterator[bytes]:
    """The body in blocks of the size in which they arrive, so that nothing is lost when the connection breaks."""
    try:
        while block := answer.raw.read1(BLOCK, decode_content=False):
            yield block
    except urllib3.exceptions.HTTPError as error:
        raise InterruptedTransferError(cause(error)) from error


def write_blocks(
    target: Path,
    first: bytes,
    blocks: Iterator[bytes],
    done: int,
    url: str,
    size: tuple[int, int],
    on_bytes: OnBytes,
) -> None:
    """Append received blocks to the first ``done`` bytes of the target, never more than the largest plausible size."""
    with target.open("ab" if done else "wb") as file:
        block: bytes | None = first
        while block:
            done += len(block)
            if done > size[1]:
                file.close()
                target.unlink()
                refuse_size(url, done, size)
            file.write(block)
            file.flush()
            on_bytes(done)
            block = next(blocks, None)


def refuse_size(url: str, found: int, size: tuple[int, int]) -> None:
    """Refuse a file that is too small or too large to be the right one (WeightsError)."""
    least, most = size
    if not least <= found <= most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        raise WeightsError(f"{url} is not the file that the manifest means: {found} bytes, not {expected}")


def refuse_full_disk(target: Path, needed: int) -> None:
    """Refuse a download that does not fit on the disk (OutOfSpaceError)."""
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutOfSpaceError(f"{target.parent} has {free >> 20} MiB free, {needed >> 20} more are needed", "make room")


def read_notes(path: Path, url: str) -> PartNotes | None:
    """The facts about an unfinished file, if it is from that address."""
    with suppress(CmapError):
        notes = read_document(path, PartNotes)
        return notes if notes.url == url else None
    return None


def looks_like_html(block: bytes) -> bool:
    """Whether bytes begin like a web page."""
    return block.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def retry_after(answer: requests.Response) -> float:
    """Seconds that the server asks to wait, 0 if it does not name a time."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0


def cause(error: Exception) -> str:
    """The reason of a failed request in a few words."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    text = str(error)
    for known, said in (("NameResolution", "its name cannot be resolved"), ("refused", "it refuses the connection")):
        if known in text:
            return said
    if "timed out" in text:
        return "it stopped sending" if "Read" in text else "it does not answer"
    return text.rsplit(">: ", 1)[-1].rstrip(")'\"")
