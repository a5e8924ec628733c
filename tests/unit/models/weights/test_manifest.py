from __future__ import annotations

from pathlib import Path

import pytest

from cmap_cli.errors import UsageError, WeightsError
from cmap_cli.models.networks.classifiers import ARCHITECTURES
from cmap_cli.models.weights.cache import installed_file, is_here, sha256
from cmap_cli.models.weights.libraries import artefact_of
from cmap_cli.models.weights.manifest import find_artefact, read_manifest
from cmap_cli.models.weights.sources import address

ENTRY = """
[thing]
kind = "classifier"
architecture = "a"
licence = "MIT"
page = "https://example.org"
shape = [3, 32, 32]
range = [0, 1]
classes = 10
labels = "cifar10"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[[thing.sources]]
url = "https://example.org/thing.pt"
format = "state-dict"
size = 1
sha256 = "unpublished"
"""
PINNED = f'sha256 = "{"0" * 64}"'


def test_the_manifest_is_valid_and_what_is_bundled_is_there() -> None:
    manifest = read_manifest()
    installed = [each for each in manifest.values() if each.installed and (not each.extra or is_here(each))]
    assert {a.name for a in installed} > {"cifar10-gaussian", "cifar10-unet", "pyautoattack-resnet18"}
    for artefact in installed:
        assert sha256(installed_file(artefact)) == artefact.sources[0].sha256


def test_the_manifest_has_what_the_method_can_use() -> None:
    manifest = read_manifest()
    assert {name for name, a in manifest.items() if a.architecture == "openai-ncsnpp"} == {
        "cifar10-cd-lpips",
        "cifar10-cd-l1",
        "cifar10-cd-l2",
        "cifar10-ct-lpips",
        "cifar10-continuous-cd-l2",
        "cifar10-continuous-cd-l2-stopgrad",
        "cifar10-continuous-cd-lpips-stopgrad",
        "cifar10-continuous-ct-l2",
        "cifar10-continuous-ct-lpips",
    }
    assert sum(a.architecture.startswith("adm-") for a in manifest.values()) == 9
    assert sum(name.startswith("robustbench-") for name in manifest) >= 4
    assert {"cifar10", "imagenet100-classes", "torchvision-resnet50", "lpips-vgg"} < set(manifest)
    for artefact in manifest.values():
        if artefact.kind == "classifier" and ":" not in artefact.architecture:
            assert artefact.architecture in ARCHITECTURES
        for source in artefact.sources:
            assert source.installed or address(source).startswith(("https://", "npm:", "manual:https://"))
    assert not manifest["cifar10-cd-lpips"].hashed
    assert manifest["cifar10-cd-lpips"].restriction
    assert manifest["imagenet64-cd-l2"].sources[0].sha256.startswith("9702bf70")
    assert manifest["imagenet64-cd-l2"].refused[0].sha256.startswith("26810cf3")
    assert manifest["cifar10"].hashed  # not the archive's hash but that of what is in it


def test_the_list_of_imagenet100_is_the_kaggle_one() -> None:
    names = installed_file(find_artefact("imagenet100-classes", "dataset")).read_text().split()
    assert len(names) == 100
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("licence", "license"), "unknown key license"),
        (("size = 1\n", ""), "lacks size"),
        (("size = 1", 'size = "1"'), "size has the wrong type, str instead of"),
        (("size = 1", "size = [2, 1]"), "neither bytes nor"),
        (("size = 1", "size = 0"), "neither bytes nor"),
        (('kind = "classifier"', 'kind = "poem"'), "unknown kind poem"),
        (('labels = "cifar10"\n', ""), "lacks labels, which a classifier needs"),
        (("std = [0.5, 0.5, 0.5]\n", ""), "mean and std together"),
        (("mean = [0.5, 0.5, 0.5]", 'mean = ["a"]'), r"mean\[0\] has the wrong type, str instead of float"),
        (("https://example.org/thing.pt", "ftp://example.org/thing.pt"), "unknown kind, ftp"),
        (("https://example.org/thing.pt", "http://example.org/thing.pt"), "not https"),
        (("https://example.org/thing.pt", "bundled:thing.pt"), "installed and needs its sha256"),
        (('format = "state-dict"', 'format = "poem"'), "unknown format poem"),
        (('"unpublished"', '"ABC"'), "not 64 lower-case hex digits"),
        (('"unpublished"', '"unpublished"\nfile = "../../thing"'), "no plain name"),
        (("[thing", "['../thing'"), "is no name"),
        (("[thing]", "[thing"), "cannot be read"),
        (("[[thing.sources]]", "[thing.sources]"), "sources has the wrong type"),
    ],
)
def test_mistakes_in_a_manifest_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(ENTRY)
    assert read_manifest(path)["thing"].sources[0].size == (1, 1)
    path.write_text(ENTRY.replace(*change))
    with pytest.raises(WeightsError, match=message):
        read_manifest(path)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    second = ENTRY.replace("thing", "other").replace("size = 1\n", "")
    third, fourth = (ENTRY.replace("[thing", f"[{name}") for name in ("third", "fourth"))
    path.write_text(ENTRY.replace("licence", "license") + second + fourth + third)
    with pytest.raises(WeightsError, match="3 mistakes") as caught:
        read_manifest(path)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}: [thing] has the unknown key license",
        f"{path}: [other] lacks size",
        f"{path}: [third] the file thing.pt is also that of fourth",
    ]


def test_a_file_with_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    inside = ENTRY.replace("https://example.org/thing.pt", "package:pyautoattack/examples/model_test.pt")
    path.write_text(inside.replace('sha256 = "unpublished"', PINNED))
    with pytest.raises(WeightsError, match="44754497 bytes, not 1"):
        installed_file(read_manifest(path)["thing"])
    path.write_text(inside.replace("size = 1", "size = 44754497").replace('sha256 = "unpublished"', PINNED))
    with pytest.raises(WeightsError, match="has SHA-256 399f52da"):
        installed_file(read_manifest(path)["thing"])


def test_unknown_names_name_the_nearest_known_one() -> None:
    for name, hint in (("x", "cmap list classifiers"), ("pyautoattack-resnet", "did you mean pyautoattack-resnet18?")):
        with pytest.raises(WeightsError, match=f"no classifier is called {name}") as caught:
            artefact_of(name, "classifier")
        assert caught.value.hint == hint


def test_models_of_libraries_become_artefacts() -> None:
    torchvision = artefact_of("torchvision:resnet18", "classifier")
    assert torchvision.sources[0].sha256 == "f37072fd"
    assert torchvision.shape == (3, 224, 224)
    assert artefact_of("torchvision:resnet50", "classifier").sources[0].sha256.startswith("11ad3fa62ca7")
    repository = artefact_of("hf:org/model@abc123", "consistency-model")
    assert repository.sources[0].url == "hf:org/model@abc123"
    assert repository.refused  # the files that the manifest knows to be wrong
    for name, message in (
        ("torchvision:nothing", "no classifier nothing"),
        ("torchvision:fcn_resnet50", "no classifier fcn_resnet50"),
        ("hf:../../etc", "no repository"),
        ("hf:nothing", "no repository"),
    ):
        with pytest.raises(UsageError, match=message):
            artefact_of(name, "classifier")


def test_timm_declares_what_its_models_need() -> None:
    pytest.importorskip("timm")
    artefact = artefact_of("timm:resnet50.a1_in1k", "classifier")
    assert address(artefact.sources[0]) == "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"
    assert artefact.classes == 1000
    assert artefact.mean == (0.485, 0.456, 0.406)
    with pytest.raises(UsageError, match="timm has no pretrained classifier nothing"):
        artefact_of("timm:nothing", "classifier")
