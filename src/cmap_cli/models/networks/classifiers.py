"""The architectures of published classifiers, by the name that the manifest gives them.

Those of CIFAR-10 take images in [0, 1]: if they were trained on normalised images, the network normalises its input,
with the published mean and deviation. The exceptions are cifar-resnet20 to 56, whose public checkpoints were trained
with a mean and deviation that are not CIFAR-10's, and EfficientNet-Lite: there the caller normalises, with the
manifest's mean and deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module

from torch import nn

from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.networks.cifar_resnet import CifarResNet
from cmap_cli.models.networks.cifar_resnet18 import CifarResNet18
from cmap_cli.models.networks.cifar_resnet50 import CifarResNet50
from cmap_cli.models.networks.dm_preact_resnet import DMPreActResNet18
from cmap_cli.models.networks.dm_wide_resnet import DMWideResNet
from cmap_cli.models.networks.efficientnet_lite import EfficientNetLite
from cmap_cli.models.networks.wide_resnet import WideResNet

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "cifar-resnet18": CifarResNet18,
    "cifar-resnet20": partial(CifarResNet, 20),
    "cifar-resnet32": partial(CifarResNet, 32),
    "cifar-resnet44": partial(CifarResNet, 44),
    "cifar-resnet56": partial(CifarResNet, 56),
    "cifar-resnet50": CifarResNet50,
    "wrn-28-10": WideResNet,
    "wrn-28-10-carmon": partial(WideResNet, sub_block1=True),
    "dm-wrn-28-10": partial(DMWideResNet, 28, 10),
    "dm-wrn-70-16": partial(DMWideResNet, 70, 16),
    "dm-wrn-82-8": partial(DMWideResNet, 82, 8),
    "dm-wrn-94-16": partial(DMWideResNet, 94, 16),
    "dm-preact-resnet18": DMPreActResNet18,
    **{f"efficientnet-lite{number}": partial(EfficientNetLite, number) for number in (0, 1, 2)},
}
"""Constructors; under ``torch.device("meta")`` the network takes no memory and still has shapes."""


def build_classifier(architecture: str, classes: int) -> nn.Module:
    """A classifier's network by its architecture: one of ARCHITECTURES, ``torchvision:NAME`` or ``timm:NAME``.

    Raises:
        WeightsError: there is no classifier of that name, or its library is not installed.
    """
    library, _, name = architecture.partition(":")
    if library == "torchvision":
        import torchvision

        network: nn.Module = torchvision.models.get_model(name)
        return network
    if library == "timm":
        try:
            timm = import_module("timm")
        except ModuleNotFoundError as error:
            raise WeightsError(f"{architecture} needs timm", pip_install("timm")) from error
        created: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
        return created
    if architecture not in ARCHITECTURES:
        raise WeightsError(f"no classifier's architecture is called {architecture}")
    return ARCHITECTURES[architecture]()
