from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib.resources import files

import pytest
import torch
from pyautoattack.examples.resnet import ResNet18
from torch import Tensor, nn

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.classifier_state import unwrap
from cmap_cli.models.networks import cifar_resnet, cifar_resnet50, dm_preact_resnet, dm_wide_resnet, wide_resnet
from cmap_cli.models.networks.cifar_resnet import CifarResNet
from cmap_cli.models.networks.cifar_resnet50 import CifarResNet50
from cmap_cli.models.networks.classifiers import ARCHITECTURES
from cmap_cli.models.networks.dm_preact_resnet import DMPreActResNet18
from cmap_cli.models.networks.dm_wide_resnet import DMWideResNet
from cmap_cli.models.networks.normalisation import CIFAR10, CIFAR10_PER_IMAGE, IMAGENET, Normalisation
from cmap_cli.models.networks.wide_resnet import WideResNet

PUBLISHED = {  # parameters, entries of the state dict with one counter per batch norm, a name that only this layout has
    "cifar-resnet18": (11_173_962, 122, "layer4.0.shortcut.1.running_var"),
    "cifar-resnet20": (269_722, 116, "layer3.2.conv2.weight"),
    "cifar-resnet32": (464_154, 188, "layer3.4.conv2.weight"),
    "cifar-resnet44": (658_586, 260, "layer3.6.conv2.weight"),
    "cifar-resnet56": (853_018, 332, "layer3.8.conv2.weight"),
    "cifar-resnet50": (23_520_842, 320, "layer3.5.bn3.weight"),
    "wrn-28-10": (36_479_194, 155, "block2.layer.0.convShortcut.weight"),
    "wrn-28-10-carmon": (38_119_866, 204, "sub_block1.layer.0.convShortcut.weight"),
    "dm-wrn-28-10": (36_479_194, 155, "layer.2.block.3.conv_1.weight"),
    "dm-wrn-70-16": (266_796_506, 407, "layer.2.block.10.batchnorm_0.bias"),
    "dm-wrn-82-8": (79_125_466, 479, "layer.0.block.12.conv_0.weight"),
    "dm-wrn-94-16": (365_915_610, 551, "layer.1.block.14.conv_0.weight"),
    "dm-preact-resnet18": (12_548_426, 107, "layer_3.0.shortcut.weight"),
    "efficientnet-lite0": (4_652_008, 296, "_blocks.15._project_conv.weight"),
    "efficientnet-lite1": (5_416_680, 386, "_blocks.20._project_conv.weight"),
    "efficientnet-lite2": (6_092_072, 386, "_blocks.20._project_conv.weight"),
}

Wrap = Callable[[dict[str, Tensor]], object]


def fill(network: nn.Module) -> nn.Module:
    """Weights that every machine computes alike: a quadratic sequence modulo a prime, scaled to keep signals alive."""
    network.double().eval()
    for index, (name, tensor) in enumerate(sorted(network.state_dict().items())):
        k = torch.arange(tensor.numel())
        values = (((7 * k * k + 3 * k + 11 * index) % 1009).double() / 504.5 - 1).reshape(tensor.shape)
        if tensor.ndim > 1:
            tensor.copy_(values * (6 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_var", "weight")):
            tensor.copy_(1 + values / 2)
        else:
            tensor.copy_(values / 2)
    return network


def image() -> Tensor:
    return ((torch.arange(3 * 32 * 32) ** 2 * 5) % 257).double().reshape(1, 3, 32, 32) / 256


def small_network() -> WideResNet:
    torch.manual_seed(0)
    return WideResNet(10, 1).eval()


def test_every_architecture_has_its_published_facts() -> None:
    assert ARCHITECTURES.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_and_names_are_the_published_ones(name: str) -> None:
    parameters, entries, key = PUBLISHED[name]
    with torch.device("meta"):
        network = ARCHITECTURES[name]()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == entries
    assert key in network.state_dict()
    classes = 1000 if name.startswith("efficientnet") else 10
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, classes)


@pytest.mark.parametrize(
    ("make", "front", "expected"),
    [
        (
            lambda: CifarResNet(20),
            IMAGENET,
            [-6.75503, -36.9043, 63.417, 73.416, 48.2026, -40.5111, -52.4665, -66.3781, 44.1743, 35.9601],
        ),
        (
            lambda: WideResNet(10, 1),
            None,
            [-0.302228, 0.960129, -0.966568, -0.0213824, 0.555903, 3.78702, 1.40974, 0.675977, -0.0925739, 1.15028],
        ),
        (
            lambda: WideResNet(10, 1, sub_block1=True),
            None,
            [-0.302228, 0.960129, -0.966568, -0.0213824, 0.555903, 3.78702, 1.40974, 0.675977, -0.0925739, 1.15028],
        ),
        (
            lambda: DMWideResNet(10, 1),
            None,
            [-4.58438, 1.57023, 3.07529, 4.09692, 2.81527, 3.44434, -0.197447, -2.23394, 2.14706, 0.113242],
        ),
        (
            DMPreActResNet18,
            None,
            [40.7142, -9.98801, 26.28, -14.0492, 30.678, 7.65154, 8.56141, 26.5421, -19.1529, 1.05908],
        ),
        (
            CifarResNet50,
            None,
            [3507.91, 997.441, 1222.99, 1665.73, 1325.65, 753.601, 1448.29, 1166.78, 1827.57, 342.219],
        ),
    ],
    ids=["cifar-resnet20", "wrn", "wrn-carmon", "dm-wrn", "dm-preact-resnet18", "cifar-resnet50"],
)
def test_logits_are_those_of_the_reference(
    make: Callable[[], nn.Module], front: Normalisation | None, expected: list[float]
) -> None:
    """The numbers were computed with the modules of RobustBench and of akamaster, the weights those of fill()."""
    network = fill(make())
    with torch.no_grad():
        x = front(image()) if front else image()
        logits = network(x)
        assert torch.equal(network(x), logits)
    torch.testing.assert_close(logits[0], torch.tensor(expected).double(), rtol=1e-5, atol=2e-6)


def test_shortcut_of_option_a() -> None:
    block = cifar_resnet.OptionABlock(16, 32, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


@pytest.mark.parametrize("kind", [wide_resnet.WideBlock, dm_wide_resnet.DMWideBlock])
def test_shortcut_of_wide_blocks_takes_the_activated_input(kind: type[nn.Module]) -> None:
    plain = kind is wide_resnet.WideBlock
    activation = nn.ReLU() if plain else nn.SiLU()
    block = kind(8, 16, 2).eval()
    last = block.conv2 if plain else block.conv_1
    shortcut = block.convShortcut if plain else block.shortcut
    norm = block.bn1 if plain else block.batchnorm_0
    nn.init.zeros_(last.weight)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), shortcut(activation(norm(x))))


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        (wide_resnet.WideBlock, "conv2"),
        (dm_wide_resnet.DMWideBlock, "conv_1"),
        (dm_preact_resnet.PreActBlock, "conv_2d_2"),
    ],
)
def test_shortcut_of_blocks_that_keep_their_shape_is_the_input(kind: type[nn.Module], last: str) -> None:
    block = kind(8, 8, 1).eval()
    nn.init.zeros_(getattr(block, last).weight)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), x)


def test_shortcut_of_the_deepmind_resnet_takes_the_raw_input_padded_right_and_below() -> None:
    block = dm_preact_resnet.PreActBlock(8, 16, 2).eval()
    nn.init.zeros_(block.conv_2d_2.weight)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), block.shortcut(nn.functional.pad(x, (0, 1, 0, 1))))


def test_shortcut_of_the_bottleneck_is_projected_and_normalised_before_the_last_activation() -> None:
    block = cifar_resnet50.Bottleneck(8, 4, 2).eval()
    nn.init.zeros_(block.bn3.weight)
    projection, norm = block.shortcut
    norm.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block(x), norm(projection(x)).relu())


@pytest.mark.parametrize(
    ("make", "stem", "normalisation"),
    [
        (lambda: DMWideResNet(10, 1), "init_conv", CIFAR10),
        (DMPreActResNet18, "conv_2d", CIFAR10),
        (CifarResNet50, "conv1", CIFAR10_PER_IMAGE),
        (lambda: WideResNet(10, 1), "conv1", Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    ],
    ids=["dm-wrn", "dm-preact-resnet18", "cifar-resnet50", "wrn"],
)
def test_the_stem_gets_normalised_images(
    make: Callable[[], nn.Module], stem: str, normalisation: Normalisation
) -> None:
    network = make().eval()
    seen: list[Tensor] = []
    network.get_submodule(stem).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mean, std = (torch.tensor(v)[:, None, None].expand(3, 32, 32) for v in (normalisation.mean, normalisation.std))
    with torch.no_grad():
        network(torch.stack([mean, mean + std]))
    torch.testing.assert_close(seen[0], torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)]))


@pytest.mark.parametrize("make", [lambda: DMWideResNet(10, 1), lambda: CifarResNet(20)], ids=["dm-wrn", "cifar-resnet"])
def test_networks_built_on_meta_lack_nothing_once_they_have_their_weights(make: Callable[[], nn.Module]) -> None:
    original = make().eval()
    with torch.device("meta"):
        network = make()
    network.load_state_dict(unwrap(original.state_dict()), assign=True)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), original(x))


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def robustness_library(state: dict[str, Tensor]) -> object:
    """DataParallel around an attacker that holds the network twice and its normalisation under two names."""
    numbers = {"new_mean": torch.zeros(3, 1, 1), "new_std": torch.ones(3, 1, 1)}
    entries = {
        **prefixed(numbers, "normalizer."),
        **prefixed(state, "model."),
        **prefixed(numbers, "attacker.normalize."),
        **prefixed(state, "attacker.model."),
    }
    return {"model": prefixed(entries, "module."), "optimizer": {"state": {}, "param_groups": []}, "epoch": 150}


WRAPPINGS: dict[str, Wrap] = {
    "bare": lambda state: state,
    "ordered": OrderedDict,
    "akamaster": lambda state: {"state_dict": prefixed(state, "module."), "best_prec1": 92.6},
    "averaged": lambda state: {
        "unaveraged_model_state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "model_state_dict": prefixed(state, "module.0."),
    },
    "normalisation first": lambda state: {
        "net": {"module.0.mean": torch.zeros(3), "module.0.std": torch.ones(3), **prefixed(state, "module.1.")}
    },
    "normalisation by name": lambda state: {"normalize.mean": torch.zeros(3), **prefixed(state, "model.")},
    "normalisation inside": lambda state: {"mu": torch.zeros(3), "sigma": torch.ones(3), **state},
    "robustness": robustness_library,
    "without counters": lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    "nested": lambda state: {"model": {"state_dict": state, "epoch": 3}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_unwrapped_checkpoints_load_strictly(wrap: Wrap) -> None:
    state = small_network().state_dict()
    unwrapped = unwrap(wrap(dict(state)))
    assert unwrapped.keys() == state.keys()
    assert all(torch.equal(unwrapped[name], state[name]) for name in state)


def test_unwrapping_leaves_the_document_as_it_was() -> None:
    document = WRAPPINGS["without counters"](dict(small_network().state_dict()))
    assert isinstance(document, dict)
    names = list(document)
    unwrap(document)
    assert list(document) == names


@pytest.mark.parametrize(
    ("junk", "found"),
    [
        ([torch.zeros(3)], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({}, "a dictionary of nothing"),
        ({"epoch": 3, "lr": 0.1}, "a dictionary of epoch, lr"),
        ({"state_dict": {"epoch": 3}}, "a dictionary of epoch"),
        ({"state_dict": {}}, "a dictionary of nothing"),
        ({"model": {"mean": torch.zeros(3), "std": torch.ones(3)}}, "only the normalisation"),
        ({0: torch.zeros(3)}, "a dictionary of 0"),
    ],
)
def test_files_that_are_no_state_dicts_are_refused(junk: object, found: str) -> None:
    with pytest.raises(WeightsError, match=f"the checkpoint holds {found}") as caught:
        unwrap(junk)
    assert "state_dict, model_state_dict, model, net" in caught.value.hint


def test_the_file_in_pyautoattack_loads_strictly() -> None:
    path = files("pyautoattack") / "examples" / "model_test.pt"
    with torch.device("meta"):
        network = ARCHITECTURES["cifar-resnet18"]()
    state = unwrap(torch.load(str(path), map_location="cpu", weights_only=True))
    network.load_state_dict(state, assign=True)
    original = ResNet18()
    original.load_state_dict(state)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.eval()(x), original.eval()(x))
