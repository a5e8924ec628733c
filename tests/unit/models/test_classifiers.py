"""Classifiers that are not ours: files, functions, libraries and repositories."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from cmap_cli.errors import CmapError, UsageError, WeightsError, pip_install
from cmap_cli.models.classifiers import load_classifier
from cmap_cli.models.preprocessing import InputSize, PreparedClassifier, parse_normalisation
from cmap_cli.models.weights.libraries import artefact_of
from cmap_cli.models.weights.obtain import FetchOptions, obtain
from tests.hostile_server import Served


class Means(nn.Module):
    """Logits: the mean of each channel of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class NoLogits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 3), float("nan"))


class OnlySmall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ torch.ones(192, 2)


def exported(path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    torch.export.save(torch.export.export(Means(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},)), path)


def scripted(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Means(), (torch.rand(2, 3, 8, 8),)).save(path)


def onnx_file(path: Path, batch: str | int = "batch") -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    pixels = make.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, [batch, 3, 8, 8])
    logits = make.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [batch, 3])
    nodes = [
        make.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        make.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    graph = make.make_graph(nodes, "means", [pixels], [logits])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.parametrize("write", [exported, scripted, onnx_file, lambda path: onnx_file(path, 1)])
def test_files_see_images_as_their_normalisation_declares(tmp_path: Path, write: object) -> None:
    path = (
        tmp_path / "means.onnx" if "onnx" in write.__name__ or write.__name__ == "<lambda>" else tmp_path / "means.pt2"
    )
    write(path)  # type: ignore[operator]
    x = torch.rand(4, 3, 8, 8)
    loaded = load_classifier(str(path), image_size=(8, 8), normalisation="0.5,0.4,0.3/0.2,0.2,0.1")
    assert loaded.num_classes == 3
    expected = (x.mean((2, 3)) - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.2, 0.1])
    torch.testing.assert_close(loaded.module(x), expected)
    with pytest.raises(UsageError, match="does not contain how images must be normalised"):
        load_classifier(str(path), image_size=(8, 8))


def test_normalisations_are_names_or_numbers() -> None:
    assert parse_normalisation("none") == ((), ())
    assert parse_normalisation("half") == ((0.5,) * 3, (0.5,) * 3)
    for text in ("nan,0,0/1,1,1", "0,0,0/1,1,inf", "nonsense", "0.5,0.5,0.5", "1,2/3,4", "0,0,0/0,0,0", "a,b,c/1,1,1"):
        with pytest.raises(UsageError, match="is neither"):
            parse_normalisation(text)
    with pytest.raises(UsageError, match="declares its own"):
        load_classifier("pyautoattack-resnet18", normalisation="none")


def test_images_are_resized_to_what_the_network_declares() -> None:
    seen: list[tuple[int, ...]] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x.mean((2, 3))

    PreparedClassifier(Looks(), InputSize(16, 12))(torch.rand(2, 3, 40, 30))
    PreparedClassifier(Looks(), None)(torch.rand(2, 3, 40, 30))
    assert seen == [(2, 3, 16, 12), (2, 3, 40, 30)]


def test_functions_return_classifiers() -> None:
    loaded = load_classifier("tests.toys:brightness_classifier")
    assert loaded.module(torch.ones(1, 3, 4, 4)).argmax() == 1
    assert (loaded.num_classes, loaded.class_name(1), loaded.class_index("1")) == (2, "1", 1)
    with pytest.raises(UsageError, match="nor a number below 2"):
        loaded.class_index("2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.toys:nothing", "cannot be imported"),
        ("json:dumps", "calling json:dumps raised TypeError"),
        ("sys:exit", "calling sys:exit raised SystemExit"),
        ("tests.toys:IsotropicGaussian", "not a torch.nn.Module"),
        ("tests.unit.models.test_classifiers:NoLogits", r"with \(1, 3, 32, 32\), not with logits"),
        ("tests.unit.models.test_classifiers:OnlySmall", "cannot take 32×32 RGB images"),
        ("tests.unit.models.test_classifiers:NotANumber", "answers with values that are not finite"),
        ("torchvision:nothing", "no classifier nothing"),
        ("torchvision:resnet18", "the weights torchvision-resnet18 are not in"),
        ("robustbench-Standard", "the weights robustbench-Standard are not in"),
        ("nothing", "no classifier is called nothing"),
        ("nowhere/model.onnx", "does not exist"),
        ("model.onnx", "does not exist"),
    ],
)
def test_objects_that_are_no_classifiers_are_refused_with_a_reason(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CmapError, match=message):
        load_classifier(name, weights_dir=tmp_path)


def test_the_default_classifier_knows_cifar10_and_any_size() -> None:
    loaded = load_classifier()
    assert (loaded.num_classes, loaded.classes[3]) == (10, "cat")
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    assert loaded.module(torch.rand(1, 3, 40, 64)).shape == (1, 10)
    with pytest.raises(UsageError, match="neither a class"):
        loaded.class_index("unicorn")


def fetched(name: str, cache: Path) -> None:
    obtain(artefact_of(name, "classifier"), FetchOptions(weights_dir=cache), lambda count: None, lambda text: None)


def test_a_repository_of_transformers(hub: Served, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3, id2label={0: "a", 1: "b", 2: "c"}
    )
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config).eval()
    network.config.architectures = ["ResNetForImageClassification"]
    preprocessing = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 16}}
    base = "org/model/resolve/abc/"
    hub.files = {
        f"{base}config.json": network.config.to_json_string(use_diff=False).encode(),
        f"{base}preprocessor_config.json": json.dumps(preprocessing).encode(),
        f"{base}model.safetensors": save(network.state_dict()),
    }
    fetched("hf:org/model@abc", tmp_path)
    loaded = load_classifier("hf:org/model@abc", weights_dir=tmp_path)
    assert loaded.classes == ("a", "b", "c")
    x = torch.rand(2, 3, 16, 16)
    mean = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    torch.testing.assert_close(loaded.module(x), network(pixel_values=(x - mean) / 0.5).logits)

    hub.files[f"{base}preprocessor_config.json"] = b"{}"
    (tmp_path / "hf-org--model-abc.safetensors").unlink()
    with pytest.raises(CmapError, match="does not declare image_mean"):
        fetched("hf:org/model@abc", tmp_path)


def test_a_model_of_timm(hub: Served, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False).eval()
    artefact = artefact_of("timm:test_resnet.r160_in1k", "classifier")
    hub.files = {f"{artefact.sources[0].rest.replace('@', '/resolve/', 1)}": save(network.state_dict())}
    fetched("timm:test_resnet.r160_in1k", tmp_path)
    loaded = load_classifier("timm:test_resnet.r160_in1k", weights_dir=tmp_path)
    size = artefact.shape[1]
    x = torch.rand(1, 3, size, size)
    mean, std = (torch.tensor(values)[:, None, None] for values in (artefact.mean, artefact.std))
    torch.testing.assert_close(loaded.module(x), network((x - mean) / std))


def test_missing_extras_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match="needs timm") as caught:
        load_classifier("timm:resnet18")
    assert caught.value.hint == pip_install("timm")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match="needs onnxruntime"):
        load_classifier(str(tmp_path / "model.onnx"), normalisation="none")
