"""Gated and private repositories of the Hugging Face hub, and where the user's token goes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.weights.fetch import Patience
from cmap_cli.models.weights.hub import fetch_from_hub, hub_address
from tests import hostile_server as hostile
from tests.hostile_server import Served

CONTENT = bytes(range(256)) * 500
GATED = "org/gated/resolve/abc/model.safetensors"
QUICK = Patience(timeout=0.5, attempts=2, pause=0.001)


def only_with(token: str, code: str = "GatedRepo") -> object:
    def answer(handler: hostile.Handler, content: bytes, start: int) -> None:
        if handler.headers.get("Authorization") == f"Bearer {token}":
            hostile.well(handler, content, start)
        else:
            handler.answer(401, X_Error_Code=code)

    return answer


@pytest.fixture
def gated(hub: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Served:
    """A hub with one gated file, and a user without a token."""
    constants = pytest.importorskip("huggingface_hub.constants")  # an attribute only once it is imported
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.files[GATED] = CONTENT
    hub.behaviour[GATED] = only_with("secret")  # type: ignore[assignment]
    return hub


def get(target: Path, repository: str = "org/gated") -> None:
    size = (len(CONTENT), len(CONTENT))
    fetch_from_hub(repository, "abc", "model.safetensors", target, size, QUICK, lambda count: None)


def test_gated_files_come_with_the_users_token(gated: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="org/gated is gated: its terms must be accepted on") as caught:
        get(tmp_path / "part")
    assert caught.value.hint == "set HF_TOKEN, or use hf auth login"
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(WeightsError, match="is gated") as caught:
        get(tmp_path / "part")
    assert "with the account whose token is set" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "secret")
    get(tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_token_in_the_users_file_is_found(gated: Served, tmp_path: Path) -> None:
    (tmp_path / "no-token").write_text("secret\n")
    get(tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_private_repositories_cannot_be_told_from_missing_ones(gated: Served, tmp_path: Path) -> None:
    gated.behaviour[GATED] = only_with("secret", "RepoNotFound")  # type: ignore[assignment]
    with pytest.raises(WeightsError, match="org/gated does not exist, or is private"):
        get(tmp_path / "part")


def test_without_the_library_public_files_come_and_gated_ones_name_the_extra(
    gated: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match="is gated") as caught:
        get(tmp_path / "part")
    assert caught.value.hint.startswith(pip_install("hf"))
    gated.behaviour.clear()
    get(tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_the_token_does_not_follow_to_another_host(
    gated: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = gated.address.replace("127.0.0.1", "localhost")
    sent: list[str | None] = []

    def record(handler: hostile.Handler, content: bytes, start: int) -> None:
        sent.append(handler.headers.get("Authorization"))
        hostile.well(handler, content, start)

    gated.files["cdn"] = CONTENT
    gated.behaviour = {GATED: hostile.redirects_to(f"{elsewhere}/cdn"), "cdn": record}
    monkeypatch.setenv("HF_TOKEN", "secret")
    get(tmp_path / "part")
    assert sent == [None]


def test_names_are_quoted_in_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert (
        hub_address("org/repo", "refs/pr/1", "a b.bin")
        == "https://huggingface.co/org/repo/resolve/refs%2Fpr%2F1/a%20b.bin"
    )
