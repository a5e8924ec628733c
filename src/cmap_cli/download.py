"""Fetch what the manifest names into the cache; the only module that opens the network."""

from __future__ import annotations

import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from cmap_cli.errors import WeightsError
from cmap_cli.weights import Artefact, cached_trunk, trunk_path, verify

TIMEOUT_SECONDS = 30
BLOCK = 1 << 20


def obtain_trunk(
    artefact: Artefact,
    weights_dir: Path | None,
    from_dir: Path | None,
    on_bytes: Callable[[int], None],
) -> Path:
    """The cached trunk of an LPIPS artefact; downloaded, verified and converted to safetensors if it is not there.

    Args:
        artefact: the entry of the manifest.
        weights_dir: the cache.
        from_dir: take the file from this folder instead of the network.
        on_bytes: told how many bytes have come so far.

    Raises:
        WeightsError: the file cannot be had or is not the one that the manifest names; the cache is unchanged then.
    """
    try:
        return cached_trunk(artefact, weights_dir)
    except WeightsError:
        target = trunk_path(artefact, weights_dir)
    file_name = artefact.url.rsplit("/", 1)[-1]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
            if from_dir is None:
                source = Path(folder) / file_name
                stream(artefact, source, on_bytes)
            else:
                source = from_dir / file_name
                if not source.is_file():
                    raise WeightsError(f"{from_dir} holds no {file_name}", f"it is the file of {artefact.url}")
            verify(source, artefact, "get the file anew: it is damaged, or another one")
            converted = Path(folder) / target.name
            state = torch.load(source, map_location="cpu", weights_only=True)
            trunk = {k.removeprefix("features."): v.contiguous() for k, v in state.items() if k.startswith("features.")}
            save_file(trunk, converted, {"source": artefact.url, "source_sha256": artefact.sha256})
            converted.replace(target)
    except OSError as error:
        raise WeightsError(
            f"{artefact.name} cannot be written to {target.parent}: {error}", "--weights-dir DIR"
        ) from error
    return target


def stream(artefact: Artefact, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Write what the artefact's address answers into ``target`` (WeightsError when it does not answer)."""
    request = urllib.request.Request(artefact.url, headers={"User-Agent": "cmap-cli"})
    done = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, target.open("wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                on_bytes(done := done + len(block))
                if done > artefact.size:
                    raise WeightsError(f"{artefact.url} sends more than the {artefact.size} bytes of {artefact.name}")
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"{artefact.url} cannot be fetched: {error}",
            f"put the file into a folder DIR and run: cmap download-weights {artefact.name} --from-dir DIR",
        ) from error
