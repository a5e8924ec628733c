"""OpenAI's ADM U-Net: both key layouts, diffusers' folders, and what is refused."""

import json
import math
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from cmap_cli.errors import WeightsError, pip_install
from cmap_cli.models.formats import diffusers_folder, openai_adm
from cmap_cli.models.formats.adm_configs import ADM_CONFIGS, unet_config
from cmap_cli.models.formats.layout import layout_sha256
from cmap_cli.models.networks.adm import build_adm

pytest.importorskip("diffusers")

HEAD = 16
SMALL = {
    "class-conditional, scale and shift": unet_config(
        image_size=16,
        widths=(32, 64),
        layers=1,
        attention=(False, True),
        num_classes=7,
        scale_shift=True,
        head_channels=HEAD,
    ),
    "unconditional, shift": unet_config(
        image_size=16,
        widths=(32, 32, 64),
        layers=2,
        attention=(False, True, True),
        num_classes=None,
        scale_shift=False,
        head_channels=HEAD,
    ),
}
CONDITIONAL, UNCONDITIONAL = SMALL.values()


def random_weights(config, seed=0):
    """UNet2DModel's state dict with no zero and no one in it: nothing that is mapped wrongly goes unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {k.removeprefix("unet."): v.shape for k, v in build_adm({"unet": config}).state_dict().items()}
    return {
        key: torch.randn(shape, generator=generator) / math.sqrt(max(1, math.prod(shape[1:])))
        + (1.0 if "norm" in key and key.endswith("weight") else 0.0)
        for key, shape in shapes.items()
    }


def load(converted):
    model = build_adm(converted.description)
    model.load_state_dict(converted.tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def small_model(config=CONDITIONAL):
    return load(diffusers_folder.convert_unet(random_weights(config), config))


def inputs(config, n=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, config["sample_size"], config["sample_size"], generator=generator)
    sigma = torch.tensor([80.0, 0.7])[:n]
    labels = torch.tensor([3, 5])[:n] if config["num_class_embeds"] else None
    return x * sigma[:, None, None, None], sigma, labels


def to_openai(state, config):
    """The inverse of the converter: OpenAI counts its blocks through while it writes them down."""
    out = {}

    def copy(theirs, ours):
        for parameter in ("weight", "bias"):
            out[f"{theirs}.{parameter}"] = state[f"{ours}.{parameter}"]

    def resnet(theirs, ours):
        copy(f"{theirs}.in_layers.0", f"{ours}.norm1")
        copy(f"{theirs}.in_layers.2", f"{ours}.conv1")
        copy(f"{theirs}.emb_layers.1", f"{ours}.time_emb_proj")
        copy(f"{theirs}.out_layers.0", f"{ours}.norm2")
        copy(f"{theirs}.out_layers.3", f"{ours}.conv2")
        if f"{ours}.conv_shortcut.weight" in state:
            copy(f"{theirs}.skip_connection", f"{ours}.conv_shortcut")

    def attention(theirs, ours):
        copy(f"{theirs}.norm", f"{ours}.group_norm")
        qkv = [torch.cat([state[f"{ours}.to_{each}.{p}"] for each in "qkv"]) for p in ("weight", "bias")]
        out[f"{theirs}.qkv.weight"], out[f"{theirs}.qkv.bias"] = qkv[0][:, :, None, None], qkv[1]
        copy(f"{theirs}.proj_out", f"{ours}.to_out.0")
        out[f"{theirs}.proj_out.weight"] = out[f"{theirs}.proj_out.weight"][:, :, None, None]

    def side(theirs, ours, block, layers, levels, resampler):
        for level in range(levels):
            for layer in range(layers):
                resnet(f"{theirs}.{block}.0", f"{ours}.{level}.resnets.{layer}")
                attends = f"{ours}.{level}.attentions.{layer}.to_q.weight" in state
                if attends:
                    attention(f"{theirs}.{block}.1", f"{ours}.{level}.attentions.{layer}")
                block += 1
            if level < levels - 1 and resampler == "downsamplers":
                resnet(f"{theirs}.{block}.0", f"{ours}.{level}.{resampler}.0")
                block += 1
            elif level < levels - 1:
                resnet(f"{theirs}.{block - 1}.{1 + attends}", f"{ours}.{level}.{resampler}.0")

    copy("time_embed.0", "time_embedding.linear_1")
    copy("time_embed.2", "time_embedding.linear_2")
    if config["num_class_embeds"]:
        out["label_emb.weight"] = state["class_embedding.weight"]
    copy("input_blocks.0.0", "conv_in")
    layers, levels = config["layers_per_block"], len(config["block_out_channels"])
    side("input_blocks", "down_blocks", 1, layers, levels, "downsamplers")
    resnet("middle_block.0", "mid_block.resnets.0")
    attention("middle_block.1", "mid_block.attentions.0")
    resnet("middle_block.2", "mid_block.resnets.1")
    side("output_blocks", "up_blocks", 0, layers + 1, levels, "upsamplers")
    copy("out.0", "conv_norm_out")
    copy("out.2", "conv_out")
    return out


def openai_forward(state, x, sigma, labels):
    """The consistency function on OpenAI's own layout, written from the architecture: no module, no renaming."""

    def apply(function, name, h, **options):
        return function(h, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)

    def norm(name, h):
        return F.group_norm(h, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def resnet(name, h, resample):
        skip, h = resample(h), resample(F.silu(norm(f"{name}.in_layers.0", h)))
        h = apply(F.conv2d, f"{name}.in_layers.2", h, padding=1)
        shift = apply(F.linear, f"{name}.emb_layers.1", F.silu(embedding))[:, :, None, None]
        if shift.shape[1] == 2 * h.shape[1]:
            scale, shift = shift.chunk(2, 1)
            h = norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = norm(f"{name}.out_layers.0", h + shift)
        h = apply(F.conv2d, f"{name}.out_layers.3", F.silu(h), padding=1)
        return h + (apply(F.conv2d, f"{name}.skip_connection", skip) if has(f"{name}.skip_connection") else skip)

    def attention(name, h):
        n, c, height, width = h.shape
        qkv = apply(F.conv2d, f"{name}.qkv", norm(f"{name}.norm", h))
        q, k, v = qkv.reshape(n, 3, c // HEAD, HEAD, height * width).unbind(1)
        weights = torch.einsum("nhct,nhcs->nhts", q, k).div(math.sqrt(HEAD)).softmax(-1)
        mixed = torch.einsum("nhts,nhcs->nhct", weights, v).reshape(n, c, height, width)
        return h + apply(F.conv2d, f"{name}.proj_out", mixed)

    def block(name, h, resample):
        for i in range(3):
            if has(f"{name}.{i}.qkv"):
                h = attention(f"{name}.{i}", h)
            elif has(f"{name}.{i}.in_layers.2"):
                h = resnet(f"{name}.{i}", h, resample if i or "input" in name else (lambda h: h))
        return h

    def has(name):
        return f"{name}.weight" in state

    def count(side):
        return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(side))

    level, width = sigma[:, None, None, None], state["time_embed.0.weight"].shape[1]
    phase = 250 * sigma.log()[:, None] * torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    embedding = apply(F.linear, "time_embed.0", torch.cat([phase.cos(), phase.sin()], 1))
    embedding = apply(F.linear, "time_embed.2", F.silu(embedding))
    if labels is not None:
        embedding = embedding + state["label_emb.weight"][labels]

    h = apply(F.conv2d, "input_blocks.0.0", x / (level**2 + 0.25).sqrt(), padding=1)
    skips = [h]
    blocks = count("input_blocks")
    ups = sum(".in_layers.2.weight" in k and k.startswith("output_blocks") and ".0.in" not in k for k in state)
    period = blocks // (ups + 1)
    for i in range(1, blocks):
        h = block(f"input_blocks.{i}", h, (lambda h: F.avg_pool2d(h, 2)) if i % period == 0 else (lambda h: h))
        skips.append(h)
    h = block("middle_block", h, lambda h: h)
    for i in range(count("output_blocks")):
        h = block(
            f"output_blocks.{i}",
            torch.cat([h, skips.pop()], 1),
            lambda h: h.repeat_interleave(2, 2).repeat_interleave(2, 3),
        )
    out = apply(F.conv2d, "out.2", F.silu(norm("out.0", h)), padding=1)
    c_skip = 0.25 / ((level - 0.002) ** 2 + 0.25)
    return c_skip * x + (level - 0.002) * 0.5 / (level**2 + 0.25).sqrt() * out


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_openai_layout_computes_what_its_architecture_says(config):
    state = to_openai(random_weights(config), config)
    model = load(openai_adm.convert_openai_adm(state, image_size=16, head_channels=HEAD))
    x, sigma, labels = inputs(config)
    torch.testing.assert_close(model(x, sigma, labels), openai_forward(state, x, sigma, labels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_both_layouts_are_the_same_model(config):
    weights = random_weights(config)
    ours = diffusers_folder.convert_unet(weights, config)
    theirs = openai_adm.convert_openai_adm(to_openai(weights, config), image_size=16, head_channels=HEAD)
    assert theirs.description["unet"] == config
    assert list(theirs.tensors) == list(ours.tensors)
    assert all(torch.equal(theirs.tensors[key], ours.tensors[key]) for key in ours.tensors)
    assert theirs.layout_sha256 != ours.layout_sha256


def test_half_precision_checkpoints_become_float32_tensors_that_can_be_saved(tmp_path):
    weights = {k: v.half() for k, v in to_openai(random_weights(CONDITIONAL), CONDITIONAL).items()}
    converted = openai_adm.convert_openai_adm(weights, image_size=16, head_channels=HEAD)
    assert {v.dtype for v in converted.tensors.values()} == {torch.float32}
    save_file(converted.tensors, tmp_path / "model.safetensors")  # refuses tensors that share memory
    json.dumps(converted.description)


@pytest.mark.parametrize(
    ("name", "parameters", "openai_keys", "openai_layout", "diffusers_keys", "diffusers_layout"),
    [
        ("adm-imagenet64", 295_899_267, 541, "198c5af55b4d", 629, "ce7bcea79a7c"),
        ("adm-imagenet64-unconditional", 295_131_267, 540, "ce1bcdf4e7d3", 628, "b1bb2fcb87e5"),
        ("adm-lsun256", 526_304_771, 566, "2917745562bd", 630, "3a634bd040cd"),
    ],
)
def test_published_architectures(name, parameters, openai_keys, openai_layout, diffusers_keys, diffusers_layout):
    config = ADM_CONFIGS[name]
    model = build_adm({"unet": config})
    ours = {k.removeprefix("unet."): v for k, v in model.state_dict().items()}
    theirs = to_openai(ours, config)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(v.numel() for v in theirs.values()) == parameters
    assert (len(theirs), len(ours)) == (openai_keys, diffusers_keys)
    assert layout_sha256({k: v.shape for k, v in theirs.items()}).startswith(openai_layout)
    assert layout_sha256({k: v.shape for k, v in ours.items()}).startswith(diffusers_layout)
    assert openai_adm.infer_config(theirs) == config
    assert model.image_shape == (3, config["sample_size"], config["sample_size"])


def test_boundary_condition_holds_exactly():
    model = small_model()
    x, _, labels = inputs(CONDITIONAL)
    assert torch.equal(model(x, torch.full((2,), model.sigma_min), labels), x)


def test_noise_levels_of_the_description_are_used():
    weights = random_weights(UNCONDITIONAL)
    model = load(diffusers_folder.convert_unet(weights, UNCONDITIONAL, sigma_min=0.1, sigma_max=20.0, sigma_data=0.3))
    x, _, _ = inputs(UNCONDITIONAL)
    assert (model.sigma_min, model.sigma_max) == (0.1, 20.0)
    assert torch.allclose(model(x, torch.full((2,), 0.1)), x)
    sigma = torch.full((2,), 1.0)
    default = load(diffusers_folder.convert_unet(weights, UNCONDITIONAL))
    assert not torch.allclose(model(x, sigma), default(x, sigma), atol=1e-3)


def test_labels_steer_the_image():
    model = small_model()
    x, sigma, labels = inputs(CONDITIONAL)
    assert model.num_classes == 7
    assert (model(x, sigma, labels) - model(x, sigma, labels + 1)).abs().max() > 1e-3


def test_labels_must_fit_the_model():
    x, sigma, labels = inputs(CONDITIONAL)
    with pytest.raises(ValueError, match="7 classes was called without labels"):
        small_model()(x, sigma)
    with pytest.raises(ValueError, match="0 classes was called with labels"):
        small_model(UNCONDITIONAL)(x, sigma, labels)


def test_gradient_reaches_the_latent_through_frozen_weights():
    model = small_model()
    x, sigma, labels = inputs(CONDITIONAL)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x, sigma, labels).square().mean(), x)
    slope = gradient.norm()
    step = 0.05 * gradient / slope
    with torch.no_grad():
        ahead, behind = (model(x + s * step, sigma, labels).double().square().mean() for s in (1, -1))
    assert ((ahead - behind) / 0.1).item() == pytest.approx(slope.item(), rel=0.01)


def test_autocast_stays_close_and_returns_float32():
    model = small_model()
    x, sigma, labels = inputs(CONDITIONAL)
    exact = model(x, sigma, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(x, sigma, labels)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "its _class_name is 'UNet2DConditionModel', not 'UNet2DModel'"),
        ({"time_embedding_type": "fourier"}, "its time_embedding_type is 'fourier'"),
        ({"center_input_sample": True}, "its center_input_sample is True"),
        ({"class_embed_type": "timestep"}, "its class_embed_type is 'timestep'"),
        ({"out_channels": 6}, "it maps 3 channels to 6"),
        ({"sample_size": None}, "sample_size is None"),
        ({"down_block_types": ["AttnDownsampleBlock2D"] * 2}, "cannot build the network: AttnDownsampleBlock2D"),
        ({"attention_legacy_order": True}, "cannot build the network: .*attention_legacy_order"),
    ],
)
def test_other_networks_are_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        build_adm({"unet": CONDITIONAL | change})


def test_missing_diffusers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(WeightsError, match="needs diffusers") as error:
        build_adm({"unet": CONDITIONAL})
    assert error.value.hint == pip_install("diffusers")


def corrupted(corruption):
    state = to_openai(random_weights(CONDITIONAL), CONDITIONAL)
    corruption(state)
    return state


@pytest.mark.parametrize(
    ("corruption", "message"),
    [
        (lambda s: s.pop("out.2.bias"), r"lacks out\.2\.bias$"),
        (
            lambda s: s.update({f"extra.{i}": torch.zeros(1) for i in range(5)}),
            "unexpected extra.0, extra.1, extra.2 and 2 more",
        ),
        (lambda s: s.update({"out.0.bias": torch.zeros(31)}), r"wrong shapes out\.0\.bias \[31\] instead of \[32\]"),
        # guided-diffusion's attention, whose rows are in another order
        (lambda s: s.update({"middle_block.1.qkv.weight": s["middle_block.1.qkv.weight"][..., 0]}), "wrong shapes"),
        (lambda s: s["out.2.weight"].view(-1).__setitem__(5, torch.nan), r"not finite in out\.2\.weight"),
        (lambda s: s.update({"out.0.bias": torch.zeros(32, dtype=torch.int64)}), r"no floats in out\.0\.bias"),
        (lambda s: s.clear(), "no consistency model of OpenAI's ADM family"),
    ],
)
def test_damaged_openai_checkpoints_are_refused(corruption, message):
    with pytest.raises(WeightsError, match=message):
        openai_adm.convert_openai_adm(corrupted(corruption), image_size=16, head_channels=HEAD)


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline's folder, class-conditional, as diffusers lays it out."""
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "config.json").write_text(json.dumps(CONDITIONAL))
    save_file(random_weights(CONDITIONAL), unet / "diffusion_pytorch_model.safetensors")
    (tmp_path / "scheduler").mkdir()
    levels = {"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.004, "sigma_max": 40.0, "sigma_data": 0.6}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(levels))
    return tmp_path


@pytest.mark.parametrize("inside", ["", "unet"])
def test_folder_of_a_pipeline_or_of_its_unet(pipeline, inside):
    converted = diffusers_folder.read_diffusers_folder(pipeline / inside)
    assert converted.description == {
        "kind": "adm",
        "unet": CONDITIONAL,
        "sigma_min": 0.004,
        "sigma_max": 40.0,
        "sigma_data": 0.6,
    }
    assert diffusers_folder.weights_file(pipeline / inside).parent == pipeline / "unet"
    expected = random_weights(CONDITIONAL)
    assert all(torch.equal(converted.tensors[f"unet.{key}"], value) for key, value in expected.items())
    load(converted)


def test_relative_folder_without_a_scheduler_has_the_published_noise_levels(pipeline, monkeypatch):
    (pipeline / "scheduler" / "scheduler_config.json").unlink()
    monkeypatch.chdir(pipeline / "unet")
    description = diffusers_folder.read_diffusers_folder(type(pipeline)()).description
    assert (description["sigma_min"], description["sigma_max"], description["sigma_data"]) == (0.002, 80.0, 0.5)


def test_scheduler_beside_a_folder_of_another_name_is_not_the_models(pipeline):
    (pipeline / "unet").rename(pipeline / "network")
    assert diffusers_folder.read_diffusers_folder(pipeline / "network").description["sigma_max"] == 80.0


def shard(pipeline, names):
    """The folder's weights cut in two, under an index that gives these names."""
    unet = pipeline / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    weights = random_weights(CONDITIONAL)
    files = {key: names[i % 2] for i, key in enumerate(weights)}
    for name in names:
        save_file({key: weights[key] for key in weights if files[key] == name}, unet / name)
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_sharded_weights(pipeline):
    whole = diffusers_folder.read_diffusers_folder(pipeline)
    digest = diffusers_folder.weights_sha256(pipeline)
    shard(pipeline, ["part-1.safetensors", "part-2.safetensors"])
    sharded = diffusers_folder.read_diffusers_folder(pipeline)
    assert all(torch.equal(sharded.tensors[key], whole.tensors[key]) for key in whole.tensors)
    first = diffusers_folder.weights_sha256(pipeline)
    save_file({"other": torch.zeros(1)}, pipeline / "unet" / "part-2.safetensors")
    assert len({digest, first, diffusers_folder.weights_sha256(pipeline)}) == 3
    with pytest.raises(WeightsError, match="cannot be read"):
        diffusers_folder.read_diffusers_folder(pipeline)
    (pipeline / "unet" / "part-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"part-2\.safetensors cannot be read"):
        diffusers_folder.weights_sha256(pipeline)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "..", "a\\b.safetensors", "part.bin", 7])
def test_shards_outside_the_folder_are_refused(pipeline, name):
    shard(pipeline, ["part-1.safetensors", "part-2.safetensors"])
    save_file(random_weights(CONDITIONAL), pipeline / "stolen.safetensors")
    index = pipeline / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(random_weights(CONDITIONAL), name)}))
    with pytest.raises(WeightsError, match="not a safetensors file beside it"):
        diffusers_folder.read_diffusers_folder(pipeline)


def test_pickled_weights_with_the_old_names_of_attention(pipeline):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = random_weights(CONDITIONAL)
    for new, old in names.items():
        state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, pipeline / "unet" / "diffusion_pytorch_model.bin")
    tensors = diffusers_folder.read_diffusers_folder(pipeline).tensors
    assert all(torch.equal(tensors[f"unet.{key}"], value) for key, value in random_weights(CONDITIONAL).items())


def test_pickled_code_is_not_run(pipeline):
    (pipeline / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": print}, pipeline / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds more than tensors"):
        diffusers_folder.read_diffusers_folder(pipeline)


def test_known_wrong_weights_are_refused_by_their_hash(pipeline):
    digest = diffusers_folder.weights_sha256(pipeline)
    diffusers_folder.read_diffusers_folder(pipeline, {"0" * 64: "another file"})
    with pytest.raises(WeightsError, match="is refused: it lacks a group norm"):
        diffusers_folder.read_diffusers_folder(pipeline, {digest: "it lacks a group norm"})


def test_model_of_another_scheduler_is_refused(pipeline):
    path = pipeline / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDPMScheduler"}))
    with pytest.raises(WeightsError, match="for a DDPMScheduler, not a CMStochasticIterativeScheduler"):
        diffusers_folder.read_diffusers_folder(pipeline)
    path.write_text(json.dumps({"_class_name": "CMStochasticIterativeScheduler", "sigma_min": -1}))
    with pytest.raises(WeightsError, match="no positive numbers"):
        diffusers_folder.read_diffusers_folder(pipeline)


def test_incomplete_folders_are_explained(pipeline):
    config = pipeline / "unet" / "config.json"
    for content in ("[]", "{", None):
        config.write_text(content) if content else config.unlink()
        with pytest.raises(WeightsError, match=r"config\.json (cannot be read|is not a JSON object)"):
            diffusers_folder.read_diffusers_folder(pipeline)
    config.write_text(json.dumps(CONDITIONAL))
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"\x00" * 20)
    with pytest.raises(WeightsError, match="cannot be read"):
        diffusers_folder.read_diffusers_folder(pipeline)
    weights.unlink()
    with pytest.raises(WeightsError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        diffusers_folder.read_diffusers_folder(pipeline)
