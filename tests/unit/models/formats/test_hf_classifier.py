"""What a configuration claims is compared with its file before memory is taken for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cmap_cli.errors import WeightsError
from cmap_cli.models.formats.hf_classifier import build_network

CONFIG = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    transformers = pytest.importorskip("transformers")
    network = transformers.AutoModelForImageClassification.from_config(transformers.AutoConfig.for_model(**CONFIG))
    return dict(network.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": [2**31, 1]}, "depths is 2147483648, which is too much"),
        ({"hidden_sizes": [2**40, 16]}, "hidden_sizes is 1099511627776, which is too much"),
        ({"hidden_sizes": [8] * 100_000}, "has 100000 entries in hidden_sizes"),
        ({"hidden_sizes": [8, 1 << 17]}, "has the wrong shapes"),  # 600 GB, if they were allocated
        ({"depths": [1, 2]}, "the checkpoint lacks"),
        ({"other": {"num_layers": 10**30}}, "num_layers is 10"),
    ],
)
def test_configurations_that_do_not_fit_the_weights_are_refused(
    weights: dict[str, torch.Tensor], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        build_network({**CONFIG, **change}, weights)


def test_a_configuration_that_fits_the_weights_gives_the_network(weights: dict[str, torch.Tensor]) -> None:
    network, classes = build_network(CONFIG, weights)
    assert classes == ("a", "b")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
