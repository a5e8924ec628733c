"""Models that benchmarks and certificates cannot use are refused when they are loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import Tensor

from cmap_cli import benchmark
from cmap_cli.benchmarking.certificates.run import certify
from cmap_cli.errors import UsageError
from tests.toys import DenoisingGaussian


@dataclass(frozen=True)
class GreyGaussian(DenoisingGaussian):
    image_shape: tuple[int, int, int] = (1, 8, 8)


class ConditionalGaussian(DenoisingGaussian):
    num_classes = 10

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return super().__call__(x, sigma)


@pytest.mark.parametrize(
    ("call", "model", "reason"),
    [
        (benchmark, "GreyGaussian", "makes images of 1 channels"),
        (certify, "GreyGaussian", "makes images of 1 channels"),
        (certify, "ConditionalGaussian", "is class-conditional"),
    ],
)
def test_models_that_do_not_fit_are_refused(call: Callable[..., object], model: str, reason: str, out: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        call("cifar10", model=f"{__name__}:{model}", n=1, out=out)
    assert not out.exists()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"
