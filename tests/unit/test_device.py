from __future__ import annotations

import pytest
import torch

from cmap_cli.core.memory import patch_batch_size
from cmap_cli.core.purifier import Purifier
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.device import available_memory, choose_batch_size, choose_device, choose_dtype, saved_bytes
from cmap_cli.errors import UsageError
from cmap_cli.purify.estimate import seconds_per_patch
from tests.toys import DenoisingGaussian, IsotropicGaussian
from tests.unit.models.networks.test_nets import unet

CPU = torch.device("cpu")


def test_device_by_name() -> None:
    assert choose_device("cpu").device == CPU
    assert choose_device("auto").reason
    for name in ("cuda:99", "toaster"):
        with pytest.raises(UsageError, match=f"device {name} cannot be used"):
            choose_device(name)


def test_precision_by_name() -> None:
    assert choose_dtype("fp16", CPU) == torch.float16
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("auto", CPU) in (torch.float32, torch.bfloat16)


def test_saved_bytes_counts_each_activation_once() -> None:
    x = torch.rand(1000, requires_grad=True)
    assert saved_bytes(lambda: torch.mul(x, x).sum()) == 4000
    assert saved_bytes(lambda: torch.exp(x).exp().sum()) == 8000


def test_batches_fit_into_memory() -> None:
    free = available_memory(CPU)
    assert free > 1 << 20
    assert choose_batch_size(free, CPU) == 1
    assert choose_batch_size(free // 8, CPU) in (3, 4, 5)
    assert choose_batch_size(1, CPU) == 8
    purifier = Purifier(IsotropicGaussian(), PurifyConfig(num_latents=2))
    assert patch_batch_size(purifier, CPU) == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_stays_close(dtype: torch.dtype) -> None:
    from cmap_cli.core.purifier import image_generators

    model, x = unet().requires_grad_(False), torch.rand(2, 3, 8, 8)
    config = PurifyConfig(num_latents=2, steps=5)
    full, reduced = (
        Purifier(model, config, dtype=d)(x, image_generators(x, 0)).samples for d in (torch.float32, dtype)
    )
    assert full.dtype == reduced.dtype == torch.float32
    assert (full - reduced).abs().mean() < 0.02


class SlowGaussian(DenoisingGaussian):
    """A model that takes its time on a clock of its own: 1 s a call of f, but 50 s the first; 3 s to denoise."""

    seconds = 0.0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        SlowGaussian.seconds += 1 if SlowGaussian.seconds else 50
        return super().__call__(x, sigma)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        SlowGaussian.seconds += 3
        return super().denoise(x, sigma)


@pytest.mark.parametrize("steps", [1, 8, 200])
def test_the_estimate_is_steps_and_what_follows_them(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(SlowGaussian, "seconds", 0.0)
    monkeypatch.setattr("cmap_cli.purify.estimate.time.perf_counter", lambda: SlowGaussian.seconds)
    purifier = Purifier(SlowGaussian(), PurifyConfig(num_latents=2, steps=steps, denoise_level=0.1))
    assert seconds_per_patch(purifier, CPU, purifier.model.image_shape[1:], batch_size=4) == pytest.approx(
        (steps + 1 + 3) / 4
    )
    assert SlowGaussian.seconds == 50 + 1 + 1 + 3  # and costs two steps
