"""Hostile models, labels, manifests and output folders, each with the command that meets it; all have to be refused."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.fake_benchmark import write_benchmark
from tests.hostile.corpus import corpus, picture
from tests.hostile.test_model_properties import archive, changed, stored_models
from tests.hostile.test_run_properties import IMAGE_RECORD, PART, RUN
from tests.toys import BrightnessClassifier

DEEP = b"[" * 100_000 + b"]" * 100_000
TEXTS = {
    "not-utf8": b'{"a": "\xff\xfe"}\n{}\n',
    "a-number": b"5\n5\n",
    "deep": DEEP + b"\n{}\n",
    "nul": b"\0\0\0\n{}\n",
    "no-fields": b"{}\n{}\n",
}
PURIFY = ("purify", "in", "--out", "o", "--steps", "1")


class Code:
    """A pickle of it writes a file when it is read by Python's own reader."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("pickled-code-was-run", "w")


@dataclass(frozen=True)
class Case:
    """A command with the files that it meets.

    Attributes:
        name: of the case.
        arguments: of ``cmap``, in the folder of the files.
        files: path -> content.
        environment: variables to set.
    """

    name: str
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the files, and an image to purify, below a folder."""
        for path, content in ({"in/a.png": picture("PNG")} | self.files).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)


def torch_saved(document: object, *, new: bool = True) -> bytes:
    """A file of torch.save, or of its old form."""
    buffer = io.BytesIO()
    torch.save(document, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def torchscript(declared: str) -> bytes:
    """A TorchScript file with a declaration of its author's."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still what people have
        traced = torch.jit.trace(BrightnessClassifier(), torch.rand(1, 3, 8, 8))
        torch.jit.save(traced, buffer, _extra_files={"cmap.json": declared})
    return buffer.getvalue()


def described(number: int, change: dict[str, Any]) -> bytes:
    """A model of this project whose description is changed."""
    description, tensors = stored_models()[number]
    metadata = {"format": "cmap-consistency-model/1", "model": json.dumps({**description, **change})}
    return save(tensors, metadata)


def with_tensors(number: int, kind: str, place: int = 0) -> bytes:
    """A model of this project of whose tensors one is changed."""
    description, tensors = stored_models()[number]
    metadata = {"format": "cmap-consistency-model/1", "model": json.dumps(description)}
    return save(changed(tensors, (kind, place, "x")), metadata)


def model_files() -> Iterator[tuple[str, bytes]]:
    """Files that are no model of ours."""
    for name, content in corpus().items():
        if name.endswith(".safetensors"):
            yield f"model-{name}", content
    yield "model-empty.safetensors", b""
    yield "model-without-description.safetensors", save({"x": torch.zeros(2)})
    yield "model-with-deep-description.safetensors", save({"x": torch.zeros(2)}, {"model": DEEP[:4000].decode()})
    yield "model-negative-sigma.safetensors", described(1, {"sigma_min": -1.0})
    yield "model-infinite-sigma.safetensors", described(1, {"sigma_max": 1e999})
    yield "model-of-a-million-blocks.safetensors", described(1, {"blocks": 10**6})
    yield "model-of-huge-width.safetensors", described(1, {"widths": [2**40]})
    for number, family in enumerate(("gaussian", "unet", "photo")):
        for kind in ("nan", "int64", "remove", "infinity", "empty"):
            yield f"{family}-{kind}.safetensors", with_tensors(number, kind)
    names = sorted(stored_models()[0][1])
    yield (
        "gaussian-negative-deviations.safetensors",
        with_tensors(
            0, "negate", next(place for place, name in enumerate(names) if "std" in name or "deviation" in name)
        ),
    )
    yield "state-dict.pt", torch_saved({"a": torch.zeros(2)})
    yield "legacy.pt", torch_saved({"a": torch.zeros(2)}, new=False)
    yield "code.pt", torch_saved(Code())
    yield "legacy-code.pt", torch_saved(Code(), new=False)
    yield "pickle.pt", pickle.dumps(Code())
    yield "text.pt2", b"no program"
    yield "empty-archive.pt2", zip_of({"x/archive_format": b"pt2"})
    yield "no-levels-in-torchscript.pt", torchscript('{"sigma_min": null}')
    yield "list-in-torchscript.pt", torchscript("[1, 2]")
    yield "deep-torchscript.pt", torchscript(DEEP[:20_000].decode())


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def models() -> Iterator[Case]:
    """Models and classifiers."""
    for name, content in model_files():
        yield Case(name, (*PURIFY, "--model", f"./{name}"), {name: content})
    diffusers = {"m/unet/config.json": b'{"_class_name": "UNet2DModel", "block_out_channels": [1000000000]}'}
    yield Case("diffusers-claims", (*PURIFY, "--model", "./m"), diffusers)
    for name, text in TEXTS.items():
        yield Case(f"diffusers-{name}", (*PURIFY, "--model", "./m"), {"m/unet/config.json": text})
    for factory in ("json:dumps", "sys:exit", "os:abort_", "builtins:exit"):
        yield Case(f"model {factory}", (*PURIFY, "--model", factory))
        yield Case(f"classifier {factory}", (*PURIFY, "--classifier", factory))
    for name, content in (("code.pt", torch_saved(Code())), ("text.pt2", b"no program")):
        yield Case(f"classifier {name}", (*PURIFY, "--classifier", f"./{name}"), {name: content})
    yield Case("classifier x.onnx", (*PURIFY, "--classifier", "./x.onnx"), {"x.onnx": b"\x08\xff" * 40})


def labels() -> Iterator[Case]:
    """Label files."""
    command = (*PURIFY, "--classifier", "pyautoattack-resnet18", "--labels", "labels.csv")
    for name, content in {
        "nul": b"file,label\nin/a.png,\0\n",
        "5000-digits": b"file,label\nin/a.png," + b"9" * 5000 + b"\n",
        "not-utf8": b"file,label\nin/\xff.png,0\n",
        "no-columns": b"a;b\n1;2\n",
        "one-long-field": b'file,label\n"' + b"x" * 200_000 + b'",0\n',
        "empty": b"",
    }.items():
        yield Case(f"labels {name}", command, {"labels.csv": content})


def entry(kind: str, format: str, more: str = "") -> bytes:
    """A weights.toml with one entry, whose file may have any size and hash."""
    return f"""
[thing]
kind = "{kind}"
licence = "MIT"
page = "https://example.org"
{more}
[[thing.sources]]
url = "https://example.org/thing.bin"
format = "{format}"
size = [0, 1000000000]
sha256 = "unpublished"
""".encode()


def downloads() -> Iterator[Case]:
    """Downloaded files in formats of other projects, and the manifest and lock file themselves."""
    network = 'architecture = "openai-ncsnpp"\nshape = [3, 32, 32]\nrange = [-1, 1]\nsigma = [0.002, 80.0]\nclasses = 0'
    dataset = 'architecture = "cifar10"\nshape = [3, 32, 32]\nclasses = 10\nlabels = "cifar10"'
    given = {
        ("consistency-model", "flax-msgpack", network): {
            "keys-that-are-lists": b"\x81\x91\x01\x02",
            "binary-keys": b"\x81\xc4\x01\xff\x02",
            "claims-4-billion": b"\xdf\xff\xff\xff\xff",
            "deep": b"\x91" * 100_000,
            "no-state": b"\x81\xa1a\x01",
        },
        ("consistency-model", "score-sde", network): {"legacy-code": torch_saved(Code(), new=False)},
        ("dataset", "cifar10-tfjs", dataset): {
            "no-archive": b"nothing",
            "no-members": archive({"package/readme": b"x"}),
            "leads-outside": archive({"../../outside.png": b"x", "/etc/outside": b"x"}),
        },
        ("dataset", "cifar10-binary", dataset): {"cut": archive({"cifar-10-batches-bin/data_batch_1.bin": b"x" * 9})},
    }
    for (kind, format, more), contents in given.items():
        for name, content in contents.items():
            files = {"weights.toml": entry(kind, format, more), "d/thing.bin": content}
            command = ("download-weights", "thing", "--from-dir", "d", "--weights-dir", "w")
            yield Case(f"{format} {name}", command, files, {"CMAP_MANIFEST": "weights.toml"})
    for name, content in TEXTS.items():
        environment = {"CMAP_MANIFEST": "weights.toml"}
        yield Case(f"manifest {name}", ("download-weights", "--list"), {"weights.toml": content}, environment)
        lock = {"w/weights-lock.json": content}
        yield Case(f"weights lock {name}", ("download-weights", "--verify", "--weights-dir", "w"), lock)


def folders() -> Iterator[Case]:
    """Output folders."""
    run, part = json.dumps(RUN).encode(), json.dumps(PART).encode()
    line = json.dumps(IMAGE_RECORD).encode() + b"\n"
    shards = {"o/run.json": run, "o/manifest-1-of-2.jsonl": line, "o/part-1-of-2.json": part}
    outside = json.dumps(IMAGE_RECORD | {"output": "../../outside.png"}).encode() + b"\n"
    for name, content in (TEXTS | {"leads-outside": outside}).items():
        if name not in ("not-utf8", "no-fields"):  # which are objects: of images that are missing then, exit code 3
            yield Case(f"manifest.jsonl {name}", ("merge", "o"), shards | {"o/manifest-1-of-2.jsonl": content})
    for name, content in TEXTS.items():
        yield Case(f"run.json {name}", PURIFY, {"o/run.json": content, "o/manifest.jsonl": line})
        two = shards | {f"p{path[1:]}": each for path, each in shards.items()}
        yield Case(f"run.json {name}, merged", ("merge", "o", "p", "--out", "q"), two | {"p/run.json": content})
        yield Case(f"part {name}", ("merge", "o"), shards | {"o/part-1-of-2.json": content})
        yield Case(f"benchmark.json {name}", ("benchmark", "--report-only", "o"), {"o/benchmark.json": content})
        yield Case(f"certify.json {name}", ("certify", "--report-only", "o"), {"o/certify.json": content})
        yield Case(f"report.json {name}", ("compare", "o", "o"), {"o/report.json": content})
    yield Case("merge into a file", ("merge", "o", "--out", "in/a.png"), shards)


@dataclass(frozen=True)
class RecordsCase(Case):
    """A whole folder of a benchmark, but for its records."""

    def write(self, folder: Path) -> None:
        write_benchmark(
            folder / "o", n=3, attacks=("pgd@white-box",), defenses=("cmap",), eps=("8/255",), pictures=False
        )
        super().write(folder)


def records() -> Iterator[Case]:
    """Records of a benchmark."""
    for name, content in TEXTS.items():
        yield RecordsCase(f"records.jsonl {name}", ("benchmark", "--report-only", "o"), {"o/records.jsonl": content})


GROUPS = (models, labels, downloads, folders, records)
