"""Consistency models that are not ours: files, functions and folders, and what is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from cmap_cli.core.purifier import Purifier, image_generators
from cmap_cli.core.settings import PurifyConfig
from cmap_cli.errors import CmapError, WeightsError
from cmap_cli.models.formats.adm_configs import unet_config
from cmap_cli.models.networks.adm import build_adm
from cmap_cli.models.weights.libraries import artefact_of
from cmap_cli.models.weights.manifest import read_manifest
from cmap_cli.models.weights.obtain import FetchOptions, obtain
from cmap_cli.models.zoo import load_identified_model, load_model
from tests.hostile_server import Served

DECLARED = '{"sigma_min": 0.002, "sigma_max": 80, "image_shape": [3, 8, 8]}'


class Network(nn.Module):
    """f(x, t) of data N(0, 0.4² I), with a parameter so that there is something to freeze."""

    def __init__(self, std: float = 0.4) -> None:
        super().__init__()
        self.std = nn.Parameter(torch.tensor(std))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = ((self.std**2 + 0.002**2) / (self.std**2 + sigma**2)).sqrt()
        return x * gain[:, None, None, None]


class Declared(Network):
    """The same, as a factory returns it."""

    sigma_min = 0.002
    sigma_max = 80.0
    image_shape = (3, 8, 8)


class NotTheIdentity(Declared):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 0.9 * super().forward(x, sigma)


class Detached(Declared):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(x.detach(), sigma)


class Leaving:
    def __init__(self) -> None:
        raise SystemExit(0)


class Huge(Declared):
    image_shape = (3, 10**6, 10**6)


class AnySize(Declared):
    stride = 4
    receptive_radius = 3


class NoStride(AnySize):
    stride = 0


class OneSize(AnySize):
    """It says that it takes any size, and does not."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(x, sigma) + 0 * x.reshape(len(x), 3, 8, 8)


class Smaller(Declared):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(x, sigma)[..., ::2, ::2]


class Infinite(Declared):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return super().forward(x, sigma) + torch.where(sigma > 1, torch.inf, 0.0)[:, None, None, None]


class Failing(Declared):
    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        raise RuntimeError("out of order")


def a_string() -> str:
    return "no model"


def exported(path: Path, declared: str | None = DECLARED) -> None:
    """The network as a torch.export file for any batch size."""
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    program = torch.export.export(
        Network().eval(), (torch.rand(2, 3, 8, 8), torch.rand(2)), dynamic_shapes=({0: batch}, {0: batch})
    )
    torch.export.save(program, path, extra_files=None if declared is None else {"cmap.json": declared})


def scripted(path: Path) -> None:
    """The network as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Network().eval(), (torch.rand(2, 3, 8, 8), torch.rand(2)))
        torch.jit.save(traced, path, _extra_files={"cmap.json": DECLARED})


@pytest.mark.parametrize("write", [exported, scripted])
def test_files_with_their_own_code_purify_like_the_network_they_hold(tmp_path: Path, write: object) -> None:
    path = tmp_path / "model.pt2"
    write(path)  # type: ignore[operator]
    loaded = load_identified_model(str(path))
    assert len(loaded.sha256) == 64
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    config = PurifyConfig(num_latents=2, steps=5)
    reference = Declared().requires_grad_(False)
    ours = Purifier(loaded.model, config)(x, image_generators(x, 0))
    torch.testing.assert_close(ours.samples, Purifier(reference, config)(x, image_generators(x, 0)).samples)


def test_a_program_file_without_a_description_is_refused_with_a_hint(tmp_path: Path) -> None:
    exported(tmp_path / "silent.pt2", None)
    with pytest.raises(WeightsError, match="does not declare sigma_min, sigma_max, image_shape") as caught:
        load_model(str(tmp_path / "silent.pt2"))
    assert "cmap.json" in caught.value.hint
    exported(tmp_path / "wrong.pt2", json.dumps([1]))
    with pytest.raises(WeightsError, match="is no object"):
        load_model(str(tmp_path / "wrong.pt2"))


class Code:
    """What a pickle must not be allowed to do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_files_that_are_no_programs_are_refused_and_run_nothing(tmp_path: Path) -> None:
    torch.save(Network().state_dict(), tmp_path / "state.pt")
    with pytest.raises(WeightsError, match="weights without a network"):
        load_model(str(tmp_path / "state.pt"))
    torch.save(Code(), tmp_path / "code.pt")
    with pytest.raises(WeightsError, match="weights without a network"):
        load_model(str(tmp_path / "code.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(WeightsError, match="it is no archive"):
        load_model(str(tmp_path / "text.pt"))


def test_pickles_inside_an_exported_program_are_not_run(tmp_path: Path) -> None:
    import io
    import zipfile

    exported(tmp_path / "good.pt2")
    buffer = io.BytesIO()
    torch.save(Code(), buffer)
    with (
        zipfile.ZipFile(tmp_path / "good.pt2") as good,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as evil,
    ):
        for name in good.namelist():
            inside = "sample_inputs" in name
            evil.writestr(name, buffer.getvalue() if inside else good.read(name))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_model(str(tmp_path / "evil.pt2"))


def test_functions_return_models() -> None:
    loaded = load_identified_model("tests.unit.models.test_zoo:Declared")
    assert isinstance(loaded.model, Declared)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert load_model("tests.toys:IsotropicGaussian").image_shape == (3, 8, 8)
    assert load_model("tests.unit.models.test_zoo:AnySize").image_shape == (3, 8, 8)


def test_a_repository_with_a_diffusers_model(hub: Served, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    config = unet_config(
        image_size=16, widths=(32, 32), layers=1, attention=(False, True), num_classes=None, scale_shift=True
    )
    model = build_adm({"unet": config | {"attention_head_dim": 16}}).to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    base = "org/port/resolve/abc/unet/"
    hub.files = {
        f"{base}config.json": json.dumps(config | {"attention_head_dim": 16}).encode(),
        f"{base}diffusion_pytorch_model.safetensors": save(model.unet.state_dict()),
    }
    artefact = artefact_of("hf:org/port@abc", "consistency-model")
    obtain(artefact, FetchOptions(weights_dir=tmp_path), lambda count: None, lambda text: None)
    hub.files.clear()
    loaded = load_model("hf:org/port@abc", weights_dir=tmp_path)
    z, sigma = 80 * torch.randn(2, 3, 16, 16), torch.full((2,), 80.0)
    torch.testing.assert_close(loaded(z, sigma), model.eval()(z, sigma))
    with pytest.raises(WeightsError, match="are not in") as caught:
        load_model("hf:org/other", weights_dir=tmp_path)
    assert caught.value.hint == "cmap download-weights hf:org/other"


def test_a_folder_does_not_take_the_place_of_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10-gaussian").mkdir()
    expected = load_identified_model("cifar10-gaussian").sha256
    monkeypatch.chdir(tmp_path)
    assert load_identified_model("cifar10-gaussian").sha256 == expected
    with pytest.raises(WeightsError, match="is no diffusers consistency model"):
        load_identified_model("./cifar10-gaussian")


def test_bundled_models_are_what_the_manifest_says() -> None:
    for artefact in read_manifest().values():
        if artefact.kind == "consistency-model" and artefact.installed:
            model = load_model(artefact.name)
            assert (model.sigma_min, model.sigma_max) == artefact.sigma
            assert model.image_shape == artefact.shape


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("NotTheIdentity", r"f\(x, t_min\) should be x and is up to 0\.\d+ away"),
        ("Detached", "no gradient with respect to its input"),
        ("Smaller", r"makes \(2, 3, 4, 4\) of images \(2, 3, 8, 8\)"),
        ("Infinite", "not finite at noise level 80"),
        ("NoStride", "the stride 0 and the receptive radius 3"),
        ("OneSize", "fails on \\(2, 3, 8, 12\\)"),
        ("Failing", "out of order"),
        ("Network", "not a function of .* with the attributes"),
        ("a_string", "it is a str"),
        ("nothing", "cannot be imported"),
        ("Leaving", "raised SystemExit: 0"),
        ("Huge", r"has the noise levels 0.002 to 80.0 and images \(3, 1000000, 1000000\)"),
        ("DECLARED", "is a str, not a function"),
    ],
)
def test_objects_that_are_no_consistency_models_are_refused_with_a_reason(factory: str, message: str) -> None:
    with pytest.raises(CmapError, match=message):
        load_model(f"tests.unit.models.test_zoo:{factory}")
