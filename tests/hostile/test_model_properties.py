"""Any bytes in weights.toml, the cache and model files of every format: errors of ours, and no code is run."""

from __future__ import annotations

import functools
import io
import json
import pickle
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from cmap_cli.models.consistency_check import DECLARED, check_attributes
from cmap_cli.models.formats import (
    cifar10,
    classifier_state,
    diffusers_folder,
    hf_classifier,
    openai_adm,
    openai_jax,
    score_sde,
)
from cmap_cli.models.formats.adm_configs import unet_config
from cmap_cli.models.formats.programs import load_program, parse_declaration
from cmap_cli.models.formats.tensor_files import read_pickle, read_safetensors
from cmap_cli.models.networks.adm import build_adm
from cmap_cli.models.networks.photo import PhotoConsistency
from cmap_cli.models.store import read_model, save_model
from cmap_cli.models.weights.cache import LOCK_FILE, cached_file, read_lock
from cmap_cli.models.weights.documents import Artefact, DownloadSource
from cmap_cli.models.weights.fetch import read_notes
from cmap_cli.models.weights.manifest import manifest_path, read_manifest
from cmap_cli.models.weights.sources import DownloadForm
from cmap_cli.models.zoo import declared_levels, load_model
from tests.hostile.strategies import (
    DAMAGES,
    HOSTILE_VALUES,
    Damage,
    as_json,
    damage,
    damaged,
    fuzz,
    json_files,
    only_our_errors,
    places,
    spoiled,
)
from tests.openai_weights import TINY_STATE
from tests.unit.models.networks.test_nets import gaussian, unet

SOURCE = DownloadSource("https://example.org/c.pt", "state-dict", (1, 1 << 20), "", "c.pt")
CLASSIFIER = Artefact(
    name="c", kind="classifier", architecture="cifar-resnet20", licence="", page="", sources=(SOURCE,), classes=10
)
BATCH = 7
"""Images of a batch of CIFAR-10 here; there are 10,000."""
DATASET = Artefact(name="d", kind="dataset", architecture="cifar10", licence="", page="", sources=())
MANIFEST = manifest_path().read_bytes()
LOCK = {
    "schema": "cmap.weights-lock/1", "seen": {"https://example.org/c.pt": "0" * 64},
    "cached": {"c": {"sha256": "0" * 64, "source": "https://example.org/c.pt", "source_sha256": "0" * 64}},
}  # fmt: skip
DECLARATION = {"sigma_min": 0.002, "sigma_max": 80, "image_shape": [3, 8, 8]}
WIDTHS = (32, 32)
UNET = unet_config(
    image_size=16, widths=WIDTHS, layers=1, attention=(False, True), num_classes=None, scale_shift=True,
    head_channels=16,
)  # fmt: skip
PREPROCESSOR = {"image_mean": [0.1] * 3, "image_std": [0.5] * 3, "size": {"height": 16, "width": 16}}


def stored(model: Any) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a model's file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_model(model, path)
        from cmap_cli.models.store import read_tensors

        return read_tensors(path)


@functools.cache
def stored_models() -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Description and tensors of a small model of each family."""
    models = (gaussian(), unet(), PhotoConsistency((8, 8), 1, 1, (3, 8, 8)))
    return [(json.loads(metadata["model"]), tensors) for metadata, tensors in map(stored, models)]


@functools.cache
def whole_models() -> list[bytes]:
    """The same as files."""
    metadata = {"format": "cmap-consistency-model/1"}
    return [save(tensors, metadata | {"model": json.dumps(described)}) for described, tensors in stored_models()]


@functools.cache
def unet_weights() -> dict[str, Tensor]:
    """Weights of the small U-Net of diffusers, by its names."""
    torch.manual_seed(0)
    expected = build_adm({"unet": UNET}).state_dict()
    return {key.removeprefix("unet."): torch.randn(value.shape) * 0.1 for key, value in expected.items()}


Change = tuple[str, int, str]
"""What happens to a tensor, to which, and a name."""

CHANGES: st.SearchStrategy[Change] = st.tuples(
    st.sampled_from(("remove", "add", "nan", "negate", "empty", "no rows", "int64", "uint8", "complex64", "float64",
                     "scalar", "infinity", "twice")),
    st.integers(0, 1000),
    st.sampled_from(("x", "", "../x", "\x1b[0m", "backbone.x", "\udcff")),
)  # fmt: skip


def changed(tensors: dict[str, Tensor], change: Change) -> dict[str, Tensor]:
    """Tensors of which one is missing, new, or of other values, another type or shape."""
    kind, number, name = change
    key = sorted(tensors)[number % len(tensors)]
    value = tensors[key]
    others = {each: tensor for each, tensor in tensors.items() if each != key}
    match kind:
        case "remove":
            return others
        case "add":
            return tensors | {name.encode("utf-8", "replace").decode(): value.clone()}
        case "nan":
            new = torch.full_like(value, float("nan"))
        case "negate":
            new = -value
        case "empty":
            new = value.new_zeros(0)
        case "no rows":
            new = value.new_zeros(0, *value.shape)
        case "scalar":
            new = value.new_tensor(1e3)
        case "infinity":
            new = value * float("inf")
        case "twice":
            new = torch.cat([value.reshape(-1), value.reshape(-1)])
        case _:
            new = value.to(getattr(torch, kind))
    return others | {key: new.contiguous()}


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@fuzz
@given(content=st.one_of(damaged([MANIFEST]), st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_manifests(tmp_path: Path, content: bytes) -> None:
    with only_our_errors():
        read_manifest(written(tmp_path / "weights.toml", content))


def toml(value: Any) -> str:
    """A value as TOML, as far as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps("" if value is None else value, ensure_ascii=False).replace("\x7f", "\\u007f")


ENTRY = {
    "kind": "classifier", "architecture": "a", "licence": "MIT", "page": "https://example.org", "shape": [3, 32, 32],
    "range": [0, 1], "classes": 10, "labels": "cifar10", "mean": [0.5], "std": [0.5],
    "sources": [{"url": "https://example.org/t.pt", "format": "state-dict", "size": 1, "sha256": "unpublished"}],
}  # fmt: skip


@fuzz
@given(entry=spoiled([{"thing": ENTRY}]))
def test_entries_of_manifests(tmp_path: Path, entry: Any) -> None:
    document = "\n".join(f"{json.dumps(k)} = {toml(v)}" for k, v in entry.items()) if isinstance(entry, dict) else "x"
    with only_our_errors():
        read_manifest(written(tmp_path / "weights.toml", document.encode("utf-8", "surrogatepass")))


@fuzz
@given(lock=json_files([LOCK]), content=st.one_of(st.just(b""), st.deferred(lambda: damaged(whole_models()))))
def test_caches(tmp_path: Path, lock: bytes, content: bytes) -> None:
    written(tmp_path / LOCK_FILE, lock)
    written(tmp_path / "c.safetensors", content)
    with only_our_errors():
        read_lock(tmp_path)
    with only_our_errors():
        cached_file(CLASSIFIER, tmp_path)
    read_notes(tmp_path / LOCK_FILE, "https://example.org/c.pt")


@fuzz
@given(content=st.one_of(st.deferred(lambda: damaged(whole_models())), st.binary(max_size=100)))
def test_model_files(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "model.safetensors", content)
    for read in (read_model, read_safetensors):
        with only_our_errors():
            read(path)  # type: ignore[operator]


@fuzz
@given(which=st.integers(0, 2), described=st.data(), change=st.one_of(st.none(), CHANGES))
def test_descriptions_and_tensors_of_models(
    tmp_path: Path, which: int, described: st.DataObject, change: Change | None
) -> None:
    description, tensors = stored_models()[which]
    if change is None:
        description = described.draw(spoiled([description]))
    else:
        tensors = changed(tensors, change)
    metadata = {"format": "cmap-consistency-model/1", "model": json.dumps(description)}
    path = written(tmp_path / "model.safetensors", save(tensors, metadata))
    with only_our_errors():
        model = read_model(path)
        assert all(bool(each.isfinite().all()) for each in model.state_dict().values())


LEVELS = {"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}


@fuzz
@given(
    config=st.one_of(st.just(as_json(UNET)), json_files([UNET])),
    scheduler=st.one_of(st.just(as_json(LEVELS)), json_files([LEVELS])),
    change=st.one_of(st.none(), CHANGES),
    damages=st.one_of(st.just([]), DAMAGES),
    index=st.one_of(st.none(), json_files([{"weight_map": {"conv_in.weight": "part.safetensors"}}])),
)
def test_folders_of_diffusers(
    tmp_path: Path, config: bytes, scheduler: bytes, change: Change | None, damages: list[Damage], index: bytes | None
) -> None:
    folder = tmp_path / "pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    content = damage(save(unet_weights() if change is None else changed(unet_weights(), change)), damages)
    written(folder / "unet" / "config.json", config)
    written(folder / "scheduler" / "scheduler_config.json", scheduler)
    if index is None:
        written(folder / "unet" / diffusers_folder.SAFETENSORS, content)
    else:
        written(folder / "unet" / "part.safetensors", content)
        written(folder / "unet" / diffusers_folder.INDEX, index)
    with only_our_errors():
        diffusers_folder.read_diffusers_folder(folder)
    with only_our_errors():
        load_model(str(folder))


CONFIG = {
    "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "embedding_size": 8,
    "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "hidden_act": "relu", "num_channels": 3,
    "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1},
}  # fmt: skip


@functools.cache
def resnet() -> dict[str, Tensor]:
    """Weights of that configuration."""
    import transformers

    torch.manual_seed(0)
    known = transformers.AutoConfig.for_model(**CONFIG)
    return dict(transformers.AutoModelForImageClassification.from_config(known).state_dict())


@fuzz
@given(config=json_files([CONFIG]), preprocessor=st.one_of(st.just(as_json(PREPROCESSOR)), json_files([PREPROCESSOR])))
def test_folders_of_transformers(tmp_path: Path, config: bytes, preprocessor: bytes) -> None:
    from cmap_cli.models.classifiers import from_transformers

    written(tmp_path / "config.json", config)
    written(tmp_path / "preprocessor_config.json", preprocessor)
    written(tmp_path / "model.safetensors", save(resnet()))
    with only_our_errors():
        converted = hf_classifier.read_classifier_folder(tmp_path)
        described = json.loads(json.dumps(converted.description))
        from_transformers("hf:org/model", tmp_path / "x", described, converted.tensors)


@functools.cache
def checkpoints() -> list[bytes]:
    """Small pickled state dicts, as new archives and in the legacy form, bare and among other entries."""
    few = {"conv1.weight": torch.zeros(2, 2), "num_batches_tracked": torch.tensor(3)}
    files = []
    for document in ({"state_dict": few, "epoch": 3}, few, {"input_blocks.0.0.weight": torch.zeros(2, 2, 3, 3)}):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save(document, buffer, _use_new_zipfile_serialization=new)
            files.append(buffer.getvalue())
    return files


def repacked(number: int, damages: list[Damage]) -> bytes:
    """A checkpoint with a damaged pickle inside an archive whose checksums are right."""
    with zipfile.ZipFile(io.BytesIO(checkpoints()[::2][number])) as source:
        members = {name: source.read(name) for name in source.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, damage(content, damages) if name.endswith(".pkl") else content)
    return buffer.getvalue()


PICKLES = st.one_of(
    st.deferred(lambda: damaged(checkpoints())),
    st.builds(repacked, st.integers(0, 2), DAMAGES),
    HOSTILE_VALUES.map(pickle.dumps),
    spoiled([{"state_dict": {"a": [1, 2]}, "model": {"b": None}}]).map(pickle.dumps),
    st.binary(max_size=60),
)


@fuzz
@given(content=PICKLES)
def test_pickles(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "c.pt", content)
    readers: list[Callable[[], object]] = [
        lambda: classifier_state.unwrap(read_pickle(path)),
        lambda: classifier_state.read_pickled_classifier(path, CLASSIFIER),
        lambda: score_sde.read(path, CLASSIFIER),
        lambda: openai_adm.convert_openai_adm(classifier_state.unwrap(read_pickle(path)), image_size=16),
        lambda: load_program(path),
    ]
    for read in readers:
        with only_our_errors():
            read()


KEYS = ["input_blocks.0.0.weight", "input_blocks.1.0.out_layers.3.weight", "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.x", "input_blocks.", "label_emb.weight", "output_blocks.0.1.in_layers.0.weight", "out.0.bias",
        "all_modules.0.W", "all_modules.4.NIN_0.W", "module.sigmas", "conv1.weight", ""]  # fmt: skip
SHAPES = [(), (0,), (1,), (4,), (3, 0), (32, 3, 3, 3), (64, 32), (1, 1, 1, 1, 1)]


@fuzz
@given(shapes=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(SHAPES), max_size=8), dtype=st.sampled_from(
    (torch.float32, torch.float16, torch.int64)))  # fmt: skip
def test_state_dicts_of_other_networks(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
    state = {key: torch.ones(shape, dtype=dtype) for key, shape in shapes.items()}
    readers: list[Callable[[], object]] = [
        lambda: openai_adm.convert_openai_adm(dict(state), image_size=16),
        lambda: openai_adm.convert_openai_adm(dict(state)),
        lambda: score_sde.convert_score_sde(dict(state)),
        lambda: classifier_state.convert_classifier(classifier_state.unwrap(dict(state)), CLASSIFIER),
        lambda: diffusers_folder.convert_unet(dict(state), UNET),
    ]
    for read in readers:
        with only_our_errors():
            read()


@fuzz
@given(content=json_files([DECLARATION]))
def test_declarations_of_programs(tmp_path: Path, content: bytes) -> None:

    with only_our_errors():
        declared = parse_declaration(tmp_path / "model.pt2", content)
        levels = declared_levels("model.pt2", declared)
        check_attributes("model.pt2", SimpleNamespace(**dict(zip(DECLARED, levels, strict=True))))


@functools.cache
def state_of_flax() -> bytes:
    """A small checkpoint as flax writes it."""
    return TINY_STATE.read_bytes()


FLAX = {"params_ema": {"conv": {"kernel": "array"}}, "step": 3, "opt": {"params": [1, 2]}}


def packed(document: Any) -> bytes:
    """The document as msgpack, with arrays in place of the text "array"; numbers that it cannot hold become -1."""
    top = {"": document}
    for holder, key in places(top):
        value = holder[key]
        if value == "array":
            holder[key] = msgpack.ExtType(1, msgpack.packb([[1, 2], "float32", bytes(8)]))
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            holder[key] = -1
    return bytes(msgpack.packb(top[""], unicode_errors="surrogatepass"))


@fuzz
@given(damages=DAMAGES)
def test_checkpoints_of_flax(tmp_path: Path, damages: list[Damage]) -> None:
    with only_our_errors():
        openai_jax.convert_jax(written(tmp_path / "checkpoint", damage(state_of_flax(), damages)))


@fuzz
@given(content=st.one_of(spoiled([FLAX]).map(packed), st.binary(max_size=60)))
def test_msgpack(tmp_path: Path, content: bytes) -> None:
    with only_our_errors():
        openai_jax.convert_jax(written(tmp_path / "checkpoint", content))


def archive(files: dict[str, bytes]) -> bytes:
    """A gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@functools.cache
def sheet() -> bytes:
    """A PNG sheet of the size that the package has."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (1024, BATCH)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@fuzz
@given(
    labels=st.one_of(st.just(b"[0, 1]"), json_files([[0, 1, 2]])),
    picture=st.one_of(st.none(), st.binary(max_size=60), DAMAGES),
    damages=st.one_of(st.just([]), DAMAGES),
)
def test_packages_of_cifar10(
    tmp_path: Path, labels: bytes, picture: bytes | list[Damage] | None, damages: list[Damage]
) -> None:
    content = picture if isinstance(picture, bytes) else damage(sheet(), picture or [])
    files = {f"package/{name}": content for name in cifar10.SHEETS}
    files |= {f"package/{name}": labels for name in cifar10.LABEL_FILES}
    files |= {f"cifar-10-batches-bin/{name}": content for name in cifar10.BINARY_BATCHES}
    path = written(tmp_path / "package.tgz", damage(archive(files), damages))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "BATCH", BATCH)
        for read in (cifar10.read_tfjs_package, cifar10.read_binary_archive):
            with only_our_errors():
                read(path, DATASET)


@fuzz
@given(page=st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda content: content.decode("latin-1")),
                      st.just("<form id=download-form action=https://x><input type=hidden name=a>")))  # fmt: skip
def test_pages_in_place_of_a_file(page: str) -> None:
    form = DownloadForm(page)
    assert not form.action or form.action.startswith("https://")
