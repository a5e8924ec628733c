from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from cmap_cli.core.consistency import c_noise
from cmap_cli.errors import WeightsError
from cmap_cli.models.formats import ncsnpp, openai_jax, score_sde
from cmap_cli.models.formats.layout import Converted, layout_sha256
from cmap_cli.models.networks.ncsnpp import NCSNppConsistency, build_ncsnpp
from tests.openai_weights import TINY_STATE, TINY_STATE_WITH_TARGET, deterministic_parameters, layout, reference

TINY = {"kind": "openai-ncsnpp", "channels": 8, "blocks": 1, "sigma_min": 0.002, "sigma_max": 80.0}


def load(converted: Converted) -> NCSNppConsistency:
    model = build_ncsnpp(converted.description)
    model.load_state_dict(converted.tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def from_flax(parameters: Mapping[str, np.ndarray]) -> NCSNppConsistency:
    tensors = {name: torch.from_numpy(array) for name, array in parameters.items()}
    return load(ncsnpp.convert_ncsnpp(tensors, openai_jax.flax_name, "the parameters"))


def tiny() -> NCSNppConsistency:
    return load(openai_jax.convert_jax(TINY_STATE))


def outputs(model: NCSNppConsistency, size: str, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """F(z, ¼·ln t) at the references' three points and f(z·t, t) at the first ``count``."""
    ref = reference(size)
    x = ref["z"] * ref["t"][:, None, None, None]
    return model.backbone(ref["z"], c_noise(ref["t"])), model(x[:count], ref["t"][:count])


def assert_agrees_with_the_original_code(model: NCSNppConsistency, size: str, count: int = 3) -> None:
    ref = reference(size)
    raw, consistency = outputs(model, size, count)
    torch.testing.assert_close(raw, ref["raw"], rtol=0, atol=1e-5)
    torch.testing.assert_close(consistency, ref["consistency"][:count], rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", [TINY_STATE, TINY_STATE_WITH_TARGET])
def test_tiny_network_agrees_with_the_original_code(path: Path) -> None:
    converted = openai_jax.convert_jax(path)
    assert converted.description == TINY
    assert converted.layout_sha256 == layout_sha256(layout("tiny"))
    assert_agrees_with_the_original_code(load(converted), "tiny")


def test_full_network_agrees_with_the_original_code() -> None:
    model = from_flax(deterministic_parameters(layout("full")))
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == 56_395_651
    assert_agrees_with_the_original_code(model, "full", count=1)  # of 42 GFLOP an image


def test_raw_instead_of_averaged_parameters_would_be_noticed() -> None:
    raw, _ = outputs(from_flax(openai_jax.read_parameters(TINY_STATE, "params")), "tiny")
    assert (raw - reference("tiny")["raw"]).abs().max() > 0.1


def test_fingerprint_of_the_full_layout_is_the_published_one() -> None:
    published = "f9a1e4e8f86a10c413ab840728c2aa944cca47f3fb338fc510e40e10b1e4179c"
    assert layout_sha256(layout("full")) == published
    assert layout_sha256({**layout("full"), "Conv_0/bias": [127]}) != published


def test_call_order_is_that_of_score_sde() -> None:
    """The table of all_modules.{i}; numbers are flax's."""
    table = """
        GaussianFourierProjection 0, Dense 0, Dense 1, Conv 0,
        Res 0, Res 1, Res 2, Res 3, Res 4, Downsample 0,
        Res 5, Attn 0, Res 6, Attn 1, Res 7, Attn 2, Res 8, Attn 3, Res 9, Downsample 1,
        Res 10, Res 11, Res 12, Res 13, Res 14, Attn 4, Res 15,
        Res 16, Res 17, Res 18, Res 19, Res 20, Res 21,
        Res 22, Res 23, Res 24, Res 25, Res 26, Attn 5, Res 27,
        Res 28, Res 29, Res 30, Res 31, Res 32, GroupNorm 0, Conv 1
    """.replace("Res", "ResnetBlockBigGANpp").replace("Attn", "AttnBlockpp")
    backbone = build_ncsnpp({**TINY, "blocks": 4}).backbone
    numbers: Counter[str] = Counter()
    order = []
    for name, _ in backbone.call_order():
        order.append(f"{name} {numbers[name]}")
        numbers[name] += 1
    assert order == [entry.strip() for entry in table.split(",")]


def score_sde_state(parameters: Mapping[str, np.ndarray], order: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """What a conversion of flax parameters for score_sde_pytorch holds."""
    index: dict[str, int] = {}
    numbers: Counter[str] = Counter()
    for i, (name, _) in enumerate(order):
        index[f"{name}_{numbers[name]}"] = i
        numbers[name] += 1
    state = {"sigmas": torch.linspace(100, 0.02, 18, dtype=torch.float64)}
    for path, array in parameters.items():
        module, *inner, leaf = path.split("/")
        if leaf in ("kernel", "weight"):
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T  # noqa: PLW2901
        leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
        state[".".join([f"all_modules.{index[module]}", *inner, leaf])] = torch.from_numpy(array)
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_score_sde_conversion_is_the_same_model(prefix: str) -> None:
    model = tiny()
    state = score_sde_state(openai_jax.read_parameters(TINY_STATE), model.backbone.call_order())
    converted = score_sde.convert_score_sde({prefix + key: tensor for key, tensor in state.items()})
    assert converted.description == TINY
    expected = {key: tuple(tensor.shape) for key, tensor in state.items() if key != "sigmas"}
    assert converted.layout_sha256 == layout_sha256(expected)
    assert all(t.is_contiguous() and t.dtype == torch.float32 for t in converted.tensors.values())
    for ours, theirs in zip(outputs(load(converted), "tiny"), outputs(model, "tiny"), strict=True):
        assert torch.equal(ours, theirs)


def test_score_sde_states_of_other_models_are_refused() -> None:
    state = score_sde_state(openai_jax.read_parameters(TINY_STATE), tiny().backbone.call_order())
    weight = state["all_modules.1.weight"]
    bad = {
        r"lacks all_modules\.1\.weight": {k: v for k, v in state.items() if k != "all_modules.1.weight"},
        r"also holds extra\.bias": {**state, "extra.bias": torch.zeros(3)},
        r"all_modules\.1\.weight has the shape \(3, 3\)": {**state, "all_modules.1.weight": torch.zeros(3, 3)},
        r"holds no float32 tensor in all_modules\.1\.weight": {**state, "all_modules.1.weight": weight.half()},
        r"holds no float32 tensor in epoch": {**state, "epoch": 3},
        r"infinite values or NaN in all_modules\.1\.weight": {**state, "all_modules.1.weight": weight / 0},
        r"has no vector all_modules\.0\.W": {"conv1.weight": torch.zeros(8, 3, 3, 3)},
        "is not an NCSN": {"all_modules.0.W": torch.zeros(8)},
        "of 132 channels": {**state, "all_modules.0.W": torch.zeros(132)},
    }
    for message, state_dict in bad.items():
        with pytest.raises(WeightsError, match=message):
            score_sde.convert_score_sde(state_dict)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "unet"},
        {"channels": 10**6},
        {"channels": 2},
        {"channels": 132},
        {"channels": True},
        {"channels": None},
        {"blocks": 10**6},
        {"blocks": 0},
        {"blocks": 1.0},
        {"sigma_max": float("nan")},
        {"sigma_min": 0.0},
    ],
)
def test_absurd_descriptions_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match=r"description of the .* network is wrong|no NCSN\+\+ of 132 channels"):
        build_ncsnpp(TINY | change)


def test_a_description_alone_takes_no_memory() -> None:
    model = build_ncsnpp({**TINY, "channels": 512, "blocks": 8})
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_boundary_condition_is_exact(dtype: torch.dtype) -> None:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert torch.equal(tiny()(x, torch.full((4,), 0.002)), x)


def test_gradients_reach_the_input_and_match_finite_differences() -> None:
    model = tiny().double()
    ref = reference("tiny")
    t = ref["t"].double()
    z = (ref["z"] * ref["t"][:, None, None, None]).double().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    weight, direction = torch.randn(2, *z.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weight * model(z, t)).sum(), z)
    with torch.no_grad():
        step = 1e-4 * t[:, None, None, None] * direction
        difference = (weight * (model(z + step, t) - model(z - step, t))).flatten(1).sum(1) / 2
    torch.testing.assert_close((gradient * step).flatten(1).sum(1), difference, rtol=1e-5, atol=1e-12)
    assert (difference.abs() > 1e-5).all()


def test_images_of_a_batch_do_not_interact() -> None:
    z = (reference("tiny")["z"] * 80).requires_grad_()
    (gradient,) = torch.autograd.grad(tiny()(z, torch.full((3,), 80.0))[1].sum(), z)
    assert gradient[1].abs().sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_bfloat16_autocast_stays_close() -> None:
    model = tiny()
    _, exact = outputs(model, "tiny")
    embeddings: list[torch.dtype] = []
    model.backbone.embed.register_forward_hook(lambda module, inputs, output: embeddings.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        _, rounded = outputs(model, "tiny")
    assert rounded.dtype == torch.float32
    assert set(embeddings) == {torch.float32}
    assert 0 < (rounded - exact).abs().max() < 0.02 * exact.abs().max()
