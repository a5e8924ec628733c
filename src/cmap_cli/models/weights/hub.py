"""The Hugging Face hub: addresses of files, and the user's token for gated and private repositories.

``huggingface_hub``, an optional dependency, only finds the token (HF_TOKEN, HF_TOKEN_PATH or what ``hf auth login``
stored). Files are downloaded by :mod:`.fetch`, because the library's own downloads have no largest size, do not refuse
web pages, and keep unfinished files in a cache that our resuming, locks and hashes do not cover.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from urllib.parse import quote

from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.weights.fetch import ForbiddenError, OnBytes, Patience, fetch

HUGGING_FACE = "https://huggingface.co"
LIBRARY = "huggingface_hub"


def endpoint() -> str:
    """HF_ENDPOINT, a mirror of the hub, else the address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or HUGGING_FACE).rstrip("/")


def hub_address(repository: str, revision: str, path: str) -> str:
    """The address of a file in a repository."""
    return f"{endpoint()}/{repository}/resolve/{quote(revision, safe='')}/{quote(path)}"


def fetch_from_hub(
    repository: str,
    revision: str,
    path: str,
    target: Path,
    size: tuple[int, int],
    patience: Patience,
    on_bytes: OnBytes,
) -> None:
    """Download a file of a repository, with the user's token if there is one.

    Raises:
        WeightsError: the repository is gated, private or unknown, with a hint; or as :func:`fetch`.
        OutOfSpaceError: the disk is full.
        PageError: a web page came.
    """
    url, token = hub_address(repository, revision, path), user_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        fetch(url, target, size, patience, on_bytes, headers)
    except ForbiddenError as error:
        page = f"{endpoint()}/{repository}"
        if error.reason == "GatedRepo":
            message = f"the repository {repository} is gated: its terms must be accepted on {page}"
        elif error.reason == "RepoNotFound":
            message = f"the repository {repository} does not exist, or is private"
        else:
            message = error.message
        raise WeightsError(message, how_to_sign_in(token is not None, page)) from error


def user_token() -> str | None:
    """The user's token for the hub, None if there is none or huggingface_hub is not installed."""
    try:
        library = import_module(LIBRARY)
    except ModuleNotFoundError:
        return None
    token: str | None = library.get_token()
    return token


def how_to_sign_in(has_token: bool, page: str) -> str:
    """The hint for a repository that needs a token."""
    if has_token:
        return f"accept the terms on {page} with the account whose token is set, or set HF_TOKEN to another account's"
    try:
        import_module(LIBRARY)
    except ModuleNotFoundError:
        return f"{pip_install('hf')}, then set HF_TOKEN or use hf auth login"
    return "set HF_TOKEN, or use hf auth login"
