"""``cmap download-weights`` against a server on this machine, with files in the real formats."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open

from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.networks.classifiers import ARCHITECTURES
from cmap_cli.models.perceptual import load_lpips, load_similarity
from cmap_cli.models.zoo import load_model
from tests import hostile_server as hostile
from tests.conftest import Run
from tests.forked import ForkedProcess
from tests.hostile_server import Served
from tests.openai_weights import TINY_STATE

QUICK = ("--timeout", "0.5", "--attempts", "2")


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def classifier_entry(
    name: str, url: str, size: int, sha256: str, file: str, architecture: str = "cifar-resnet20"
) -> str:
    return f"""
[{name}]
kind = "classifier"
architecture = "{architecture}"
licence = "BSD-2-Clause"
page = "https://example.org"
shape = [3, 32, 32]
range = [0, 1]
classes = 10
labels = "cifar10"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[[{name}.sources]]
url = "{url}"
format = "state-dict"
size = {size}
sha256 = "{sha256}"
file = "{file}"
"""


class Shop:
    """A server, a manifest of what it has, and a cache."""

    def __init__(self, served: Served, folder: Path) -> None:
        self.served = served
        self.cache = folder / "cache"
        self.manifest = folder / "weights.toml"
        torch.manual_seed(0)
        network = ARCHITECTURES["cifar-resnet20"]()
        self.net = saved(
            {"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}, "best_prec1": 91.7}
        )
        trunk = saved(torchvision.models.squeezenet1_1(weights=None).state_dict())
        served.files |= {"net.pt": self.net, "trunk.pth": trunk, "checkpoint_80": TINY_STATE.read_bytes()}
        self.entries = classifier_entry("net", served.url("net.pt"), len(self.net), digest(self.net), "net.pt")
        self.entries += f"""
[lpips-squeeze]
kind = "lpips-trunk"
architecture = "squeeze"
licence = "BSD-3-Clause"
page = "https://example.org"
range = [-1, 1]
[[lpips-squeeze.sources]]
url = "{served.url("trunk.pth")}"
format = "torchvision-features"
size = {len(trunk)}
sha256 = "{digest(trunk)}"

[tiny-cd]
kind = "consistency-model"
architecture = "openai-ncsnpp"
licence = "Apache-2.0 (code)"
restriction = "research only"
page = "https://example.org"
shape = [3, 32, 32]
range = [-1, 1]
sigma = [0.002, 80.0]
classes = 0
[[tiny-cd.sources]]
url = "{served.url("checkpoint_80")}"
format = "flax-msgpack"
size = [1_000_000, 2_000_000]
sha256 = "unpublished"
[[tiny-cd.refused]]
sha256 = "{digest(b"an old upload")}"
reason = "it was trained on the test set"
"""
        self.write()

    def write(self, more: str = "") -> None:
        self.manifest.write_text(self.entries + more)

    @property
    def environment(self) -> dict[str, str]:
        return {"CMAP_MANIFEST": str(self.manifest), "CMAP_WEIGHTS_DIR": str(self.cache)}

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))

    def left_over(self) -> list[str]:
        return sorted(path.name for path in (self.cache / ".partial").iterdir())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with hostile.serving() as served:
        shop = Shop(served, tmp_path)
        for name, value in shop.environment.items():
            monkeypatch.setenv(name, value)
        yield shop


def test_from_nothing_to_verified_weights_in_use(invoke: Run, shop: Shop) -> None:
    run = invoke("download-weights", "net", "lpips-squeeze", "tiny-cd", "--accept-licence")
    assert run.returncode == 0, run.stderr
    assert [line.partition(": ")[0] for line in run.stdout.splitlines()] == ["net", "lpips-squeeze", "tiny-cd"]
    assert "tiny-cd: Apache-2.0 (code); research only (https://example.org)" in run.stderr
    assert "no hash of tiny-cd is published: its size, tensors and values are as they should be" in run.stderr
    assert shop.visible() == [
        "lpips-squeeze.safetensors",
        "net.safetensors",
        "tiny-cd.safetensors",
        "weights-lock.json",
    ]
    assert shop.left_over() == []
    with safe_open(shop.cache / "tiny-cd.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["source"] == shop.served.url("checkpoint_80")
    assert metadata["source_sha256"] == digest(TINY_STATE.read_bytes())
    model = load_model("tiny-cd")
    assert model.image_shape == (3, 32, 32)
    classifier = load_classifier("net")
    assert (classifier.num_classes, classifier.classes[3]) == (10, "cat")
    weight = torch.load(io.BytesIO(shop.served.files["trunk.pth"]), weights_only=True)["features.3.squeeze.weight"]
    assert torch.equal(load_lpips("squeeze").state_dict()["net.slice2.3.squeeze.weight"], weight)
    x = torch.rand(2, 1, 3, 32, 32)
    similarity = load_similarity("both", "squeeze")
    assert (similarity(x[:, 0])(x) < similarity(x[:, 0])(x.flip(0))).all()

    shop.served.files.clear()  # what is here is not asked for again
    again = invoke("download-weights", "net", "--json")
    assert json.loads(again.stdout)["paths"] == {"net": str(shop.cache / "net.safetensors")}
    listed = invoke("download-weights", "--list").stdout.splitlines()
    assert listed[2] == "| net | classifier | 1.1 MB | BSD-2-Clause | cached |"
    verified = invoke("download-weights", "--verify")
    assert verified.returncode == 0
    assert "tiny-cd: as it should be" in verified.stdout
    with (shop.cache / "net.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    changed = invoke("download-weights", "--verify", "--json")
    assert changed.returncode == 1
    assert "has changed since" in json.loads(changed.stdout)["verified"]["net"]
    used = invoke("purify", "x.png", "--out", "o", "--classifier", "net", "--dry-run")
    assert used.returncode == 2


@pytest.mark.parametrize(
    ("spoil", "message", "code"),
    [
        (lambda shop: shop.served.behaviour.update({"net.pt": hostile.truncates}), "could not be downloaded in", 1),
        (lambda shop: shop.served.behaviour.update({"net.pt": hostile.stalls}), "it stopped sending", 1),
        (lambda shop: shop.served.behaviour.update({"net.pt": hostile.claims(77)}), "77 bytes, not", 1),
        (lambda shop: shop.served.files.update({"net.pt": bytes(len(shop.net))}), "has SHA-256", 1),
        (lambda shop: shop.served.behaviour.update({"net.pt": hostile.page}), "answers with a web page", 1),
        (lambda shop: shop.served.files.pop("net.pt"), "404", 1),
    ],
)
def test_a_failed_download_is_one_error_and_leaves_the_cache_unchanged(
    invoke: Run, shop: Shop, spoil: Callable[[Shop], object], message: str, code: int
) -> None:
    spoil(shop)
    run = invoke("download-weights", "net", *QUICK)
    assert run.returncode == code
    assert run.stderr.count("error:") == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert "hint:" in run.stderr
    assert shop.visible() == []


def test_a_half_file_is_only_ever_in_the_partial_folder_and_is_taken_up(invoke: Run, shop: Shop) -> None:
    shop.served.behaviour["net.pt"] = hostile.breaks_then_refuses
    assert invoke("download-weights", "net", *QUICK).returncode == 1
    assert (shop.visible(), shop.left_over()) == ([], ["net.pt", "net.pt.json"])
    shop.served.behaviour.clear()
    shop.served.ranges.clear()
    assert invoke("download-weights", "net", *QUICK).returncode == 0
    assert shop.served.ranges == [f"bytes={len(shop.net) // 3}-"]
    assert (shop.visible(), shop.left_over()) == (["net.safetensors", "weights-lock.json"], [])


def test_another_file_than_the_first_is_refused_where_no_hash_is_published(invoke: Run, shop: Shop) -> None:
    assert invoke("download-weights", "tiny-cd", "--accept-licence").returncode == 0
    (shop.cache / "tiny-cd.safetensors").unlink()
    other = bytearray(TINY_STATE.read_bytes())
    other[200_000] ^= 1
    shop.served.files["checkpoint_80"] = bytes(other)
    run = invoke("download-weights", "tiny-cd", "--accept-licence")
    assert run.returncode == 1
    assert "is another one than before" in run.stderr
    assert "weights-lock.json" in run.stderr
    assert shop.visible() == ["weights-lock.json"]
    run = invoke("download-weights", "tiny-cd", "--require-hash", "--accept-licence")
    assert run.returncode == 2
    assert "no hash of tiny-cd is published" in run.stderr


def test_structure_is_checked_where_no_hash_is_published(invoke: Run, shop: Shop) -> None:
    shop.served.files["checkpoint_80"] = TINY_STATE.read_bytes()[:1_200_000]
    run = invoke("download-weights", "tiny-cd", "--accept-licence")
    assert run.returncode == 1
    assert "is cut short" in run.stderr
    infinite = dict(ARCHITECTURES["cifar-resnet20"]().state_dict())
    infinite["conv1.weight"] = infinite["conv1.weight"] * float("inf")
    wrong = ARCHITECTURES["cifar-resnet32"]().state_dict()
    more = ""
    for name, state in (
        ("infinite", infinite),
        ("wrong", wrong),
        ("pickle", {"weights": test_structure_is_checked_where_no_hash_is_published}),
    ):
        shop.served.files[name] = saved(state)
        more += classifier_entry(name, shop.served.url(name), len(shop.served.files[name]), "unpublished", name)
    shop.write(more)
    run = invoke("download-weights", "infinite", "wrong", "pickle", *QUICK)
    assert run.returncode == 1
    assert "values that are not finite, in conv1.weight" in run.stderr
    assert "the file is not a cifar-resnet20: layer" in run.stderr
    assert "holds more than tensors and plain values, and is not loaded" in run.stderr
    assert shop.visible() == []


def test_files_known_to_be_wrong_are_refused_by_name(invoke: Run, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "checkpoint_80").write_bytes(b"an old upload")
    run = invoke("download-weights", "tiny-cd", "--accept-licence", "--from-dir", "given")
    assert run.returncode == 2
    assert "known to be wrong: it was trained on the test set" in run.stderr


def test_files_that_somebody_else_downloaded(invoke: Run, shop: Shop, tmp_path: Path) -> None:
    given = tmp_path / "given"
    (given / "net").mkdir(parents=True)
    run = invoke("download-weights", "net", "--from-dir", "given")
    assert run.returncode == 2
    assert "given holds no net.pt" in run.stderr
    (given / "net" / "net.pt").write_bytes(shop.net)
    run = invoke("download-weights", "net", "--from-dir", "given")
    assert run.returncode == 0, run.stderr
    assert (given / "net" / "net.pt").read_bytes() == shop.net
    assert not shop.served.requests


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (("--mirror", "http://127.0.0.1:9", *QUICK), 1),
        (("--from-dir", "."), 2),
        (("--offline",), 2),
    ],
)
def test_an_error_names_one_file_also_where_a_model_has_two_sources(
    invoke: Run, tmp_path: Path, how: tuple[str, ...], code: int
) -> None:
    name = "cifar10-cd-lpips"
    run = invoke("download-weights", name, "--accept-licence", "--weights-dir", tmp_path / "cache", *how)
    assert run.returncode == code
    told = run.stderr[run.stderr.index("error:") :]
    assert told.count("error:") == 1
    assert f"DIR/{name}-checkpoint_80" in told
    named = set(re.findall(r"[\w.-]*checkpoint[\w.-]*(?=[\s,:.])", re.sub(r"https://\S+", "", told)))
    assert named == {f"{name}-checkpoint_80"}


def test_mirrors_offline_and_dry_runs(invoke: Run, shop: Shop) -> None:
    offline = invoke("download-weights", "net", "--offline")
    assert offline.returncode == 2
    assert "--from-dir DIR" in offline.stderr
    wrong = invoke("download-weights", "net", "--mirror", "ftp://example.org")
    assert (wrong.returncode, "--mirror ftp://example.org is not an address" in wrong.stderr) == (2, True)
    planned = invoke("download-weights", "net", "tiny-cd", "--dry-run")
    assert planned.stdout.splitlines()[1] == f"  {shop.served.url('net.pt')}"
    assert not shop.served.requests
    shop.served.files = {"models/net.pt": shop.net}
    assert invoke("download-weights", "net", CMAP_MIRROR=shop.served.url("models/")).returncode == 0
    assert dict(shop.served.requests) == {"models/net.pt": 1}


def test_licences_are_accepted_or_nothing_is_fetched(invoke: Run, shop: Shop) -> None:
    run = invoke("download-weights", "tiny-cd")
    assert run.returncode == 2
    assert "research only" in run.stderr
    assert "--accept-licence" in run.stderr
    assert not shop.served.requests


def test_the_next_source_is_tried(invoke: Run, shop: Shop) -> None:
    first, second = shop.served.url("gone.pt"), shop.served.url("net.pt")
    entry = classifier_entry("net", first, len(shop.net), digest(shop.net), "gone.pt")
    source = entry[entry.index("[[") :].replace(first, second).replace('"gone.pt"', '"net.pt"')
    shop.manifest.write_text(entry + source)
    run = invoke("download-weights", "net")
    assert run.returncode == 0
    assert "404" in run.stderr
    assert "trying the next source" in run.stderr


def test_nothing_is_needed_by_default_and_mistakes_are_named(invoke: Run, tmp_path: Path) -> None:
    run = invoke("download-weights")
    assert run.returncode == 0
    named = [line.partition(":")[0] for line in run.stdout.splitlines()]
    assert named == ["cifar10-unet", "photo-unet", "pyautoattack-resnet18"]
    run = invoke("download-weights", "nothing", "nonsense")
    assert run.returncode == 2
    assert run.stderr.count("error: no weights are called") == 2
    run = invoke("download-weights", "net", "--all")
    assert "exclude each other" in run.stderr
    (tmp_path / "wrong.toml").write_text("[a]\n[b]\n")
    run = invoke("download-weights", "--check-manifest", CMAP_MANIFEST="wrong.toml")
    assert run.returncode == 2
    assert run.stderr.count("error: wrong.toml: [") == 2


def start(shop: Shop, *arguments: str) -> ForkedProcess:
    environment = {**os.environ, **shop.environment}
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return ForkedProcess(["download-weights", *arguments], Path.cwd(), environment, **piped)


def kill_when(process: ForkedProcess, condition: Callable[[], bool]) -> None:
    """Kill -9 as soon as something holds; fails if the process ends before."""
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_kill_9_in_the_middle_of_a_download_loses_nothing(invoke: Run, shop: Shop) -> None:
    shop.served.behaviour["net.pt"] = hostile.slow
    part = shop.cache / ".partial" / "net.pt"
    kill_when(start(shop, "net"), lambda: part.exists() and part.stat().st_size > 100_000)
    assert shop.visible() == []
    shop.served.behaviour.clear()
    assert invoke("download-weights", "net").returncode == 0
    assert int(shop.served.ranges[0].removeprefix("bytes=").removesuffix("-")) > 100_000
    assert invoke("download-weights", "--verify").returncode == 0


def test_kill_9_in_the_middle_of_a_conversion_loses_nothing(invoke: Run, shop: Shop) -> None:
    big = saved(ARCHITECTURES["wrn-28-10"]().state_dict())
    shop.served.files["big.pt"] = big
    shop.write(classifier_entry("big", shop.served.url("big.pt"), len(big), digest(big), "big.pt", "wrn-28-10"))
    kill_when(start(shop, "big"), lambda: shop.cache.exists() and any(shop.cache.glob(".cmap-*.tmp")))
    assert "big.safetensors" not in shop.visible()
    shop.served.requests.clear()
    assert invoke("download-weights", "big").returncode == 0
    assert not shop.served.requests  # the download was whole
    assert shop.left_over() == []
    assert load_classifier("big").num_classes == 10


def test_two_processes_at_once_do_not_hurt_each_other(shop: Shop) -> None:
    shop.served.behaviour["net.pt"] = hostile.slow
    running = [start(shop, "net") for _ in range(2)]
    told = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("another process is downloading net" in text for text in told) == 1
    assert shop.served.requests["net.pt"] == 1
    assert (shop.visible(), shop.left_over()) == (["net.safetensors", "weights-lock.json"], [])
