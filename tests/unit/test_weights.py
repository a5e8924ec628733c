from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from cmap_cli import perceptual
from cmap_cli.classifiers import load_classifier
from cmap_cli.download import obtain_trunk
from cmap_cli.errors import UsageError, WeightsError
from cmap_cli.weights import Artefact, find_artefact, installed_file, read_manifest, sha256

ENTRY = """
[thing]
kind = "classifier"
architecture = "a"
package = "pyautoattack/examples/model_test.pt"
size = 1
sha256 = "00"
licence = "MIT"
page = "https://example.org"
"""


def test_the_manifest_is_valid_and_what_is_bundled_is_there() -> None:
    manifest = read_manifest()
    assert {"cifar10-gaussian", "cifar10-unet", "pyautoattack-resnet18", "lpips-vgg"} <= set(manifest)
    for artefact in manifest.values():
        assert len(artefact.sha256) == 64
        if artefact.bundled:
            assert sha256(installed_file(artefact)) == artefact.sha256
            assert artefact.size < 16 << 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("licence", "license"), "unknown key license"),
        (("size = 1\n", ""), "lacks size"),
        (("size = 1", 'size = "1"'), "wrong type"),
        (('kind = "classifier"', 'kind = "poem"'), "unknown kind poem"),
        (("package = ", 'url = "https://example.org"\npackage = '), "exactly one"),
        (("[thing]", "[thing"), "cannot be read"),
    ],
)
def test_mistakes_in_a_manifest_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(ENTRY)
    assert read_manifest(path)["thing"].size == 1
    path.write_text(ENTRY.replace(*change))
    with pytest.raises(WeightsError, match=message):
        read_manifest(path)


def test_a_file_with_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(ENTRY)
    with pytest.raises(WeightsError, match="44754497 bytes, thing has 1"):
        installed_file(read_manifest(path)["thing"])
    path.write_text(ENTRY.replace("size = 1", "size = 44754497"))
    with pytest.raises(WeightsError, match="has SHA-256 399f52da"):
        installed_file(read_manifest(path)["thing"])


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="no classifier is called x") as caught:
        find_artefact("x", "classifier")
    assert "pyautoattack-resnet18" in caught.value.hint


@pytest.fixture
def trunk(tmp_path: Path) -> tuple[Path, Artefact]:
    """A SqueezeNet with random weights in a folder, and the artefact that describes it."""
    torch.manual_seed(0)
    path = tmp_path / "served" / "squeezenet.pth"
    path.parent.mkdir()
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, Artefact("lpips-squeeze", "lpips-trunk", "squeeze", digest, path.stat().st_size, "x", "x", url="")


@pytest.fixture
def server(trunk: tuple[Path, Artefact]) -> Iterator[str]:
    """A local HTTP server over the folder of the trunk."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(trunk[0].parent))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def with_url(artefact: Artefact, url: str, digest: str | None = None) -> Artefact:
    return Artefact(
        "lpips-squeeze", "lpips-trunk", "squeeze", digest or artefact.sha256, artefact.size, "x", "x", url=url
    )


def test_a_trunk_is_fetched_verified_converted_and_used(
    trunk: tuple[Path, Artefact], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artefact = with_url(trunk[1], f"{server}/squeezenet.pth")
    cache = tmp_path / "cache"
    told: list[int] = []
    path = obtain_trunk(artefact, cache, None, told.append)
    assert told[-1] == artefact.size
    assert [entry.name for entry in cache.iterdir()] == ["lpips-squeeze.safetensors"]
    assert obtain_trunk(with_url(artefact, "http://127.0.0.1:9/gone"), cache, None, told.append) == path
    monkeypatch.setattr(perceptual, "find_artefact", lambda name, kind: artefact)
    network = perceptual.load_lpips("squeeze", cache)
    weight = torch.load(trunk[0], weights_only=True)["features.3.squeeze.weight"]
    assert torch.equal(network.state_dict()["net.slice2.3.squeeze.weight"], weight)
    x = torch.rand(2, 1, 3, 32, 32)
    similarity = perceptual.load_similarity("both", "squeeze", cache)
    same, other = similarity(x[:, 0])(x), similarity(x[:, 0])(x.flip(0))
    assert (same < other).all()


def test_what_is_not_the_file_leaves_the_cache_as_it_was(
    trunk: tuple[Path, Artefact], server: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (trunk[0].parent / "page.html").write_text("<html>")
    for artefact, message in (
        (with_url(trunk[1], f"{server}/squeezenet.pth", "0" * 64), "has SHA-256"),
        (with_url(trunk[1], f"{server}/missing.pth"), "404"),
        (with_url(trunk[1], f"{server}/page.html"), "has 6 bytes"),
    ):
        with pytest.raises(WeightsError, match=message):
            obtain_trunk(artefact, cache, None, lambda count: None)
        assert list(cache.iterdir()) == []
    with pytest.raises(WeightsError, match=r"holds no squeezenet\.pth"):
        obtain_trunk(with_url(trunk[1], "https://example.org/squeezenet.pth"), cache, tmp_path, lambda count: None)
    offline = with_url(trunk[1], "https://example.org/squeezenet.pth")
    assert obtain_trunk(offline, cache, trunk[0].parent, lambda count: None).exists()


def test_a_cached_trunk_of_another_file_is_refused(trunk: tuple[Path, Artefact], tmp_path: Path) -> None:
    from cmap_cli.weights import cached_trunk

    offline = with_url(trunk[1], "https://example.org/squeezenet.pth")
    obtain_trunk(offline, tmp_path, trunk[0].parent, lambda count: None)
    with pytest.raises(WeightsError, match="was made from a file with SHA-256"):
        cached_trunk(with_url(offline, offline.url, "1" * 64), tmp_path)


def test_classifiers_by_name() -> None:
    loaded = load_classifier("tests.toys:brightness_classifier")
    assert loaded.module(torch.ones(1, 3, 4, 4)).argmax() == 1
    assert (loaded.class_name(1), loaded.class_index("1")) == ("1", 1)
    for name, message in (
        ("tests.toys:nothing", "cannot be imported"),
        ("tests.toys:IsotropicGaussian", "not a torch.nn.Module"),
        ("torchvision:nothing", "no model nothing"),
        ("nothing", "no classifier is called"),
    ):
        with pytest.raises(UsageError, match=message):
            load_classifier(name)


def test_the_default_classifier_knows_cifar10() -> None:
    loaded = load_classifier()
    assert loaded.classes[3] == "cat"
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    with pytest.raises(UsageError, match="neither a number nor a class"):
        loaded.class_index("unicorn")
