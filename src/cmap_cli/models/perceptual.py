"""The perceptual terms by name: SSIM, LPIPS with its trunk from a verified local file, or both."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from cmap_cli.choices import LpipsTrunk, Perceptual
from cmap_cli.core.similarity import LPIPS, SSIM, Sum
from cmap_cli.core.types import Similarity
from cmap_cli.models.weights.cache import cached_file
from cmap_cli.models.weights.manifest import find_artefact


def load_similarity(
    perceptual: Perceptual = "ssim",
    trunk: LpipsTrunk = "vgg",
    weights_dir: Path | None = None,
    device: torch.device | str = "cpu",
) -> Similarity:
    """The perceptual term.

    Args:
        perceptual: which.
        trunk: the network under LPIPS.
        weights_dir: where downloaded weights are, the user's cache by default.
        device: for LPIPS.

    Raises:
        WeightsError: the trunk has not been downloaded, or is not the file that the manifest names.
    """
    if perceptual == "ssim":
        return SSIM()
    lpips = LPIPS(load_lpips(trunk, weights_dir).to(device))
    return lpips if perceptual == "lpips" else Sum((SSIM(), lpips))


def load_lpips(trunk: LpipsTrunk, weights_dir: Path | None = None) -> nn.Module:
    """The lpips package's module, frozen: its own linear heads, the trunk from our cache."""
    features = load_file(cached_file(find_artefact(f"lpips-{trunk}", "lpips-trunk"), weights_dir))
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips 0.1.4 uses torchvision's old `pretrained` argument
        network: nn.Module = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    # lpips cuts torchvision's `features` into net.slice1, net.slice2, ...; the index in `features` stays
    inside = {name.split(".", 2)[2]: name for name in network.state_dict() if name.startswith("net.slice")}
    network.load_state_dict({inside[key]: value for key, value in features.items()}, strict=False)
    return network.requires_grad_(False).eval()
