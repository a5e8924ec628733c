"""The published JSON Schemas are those of the types, and what commands print and write is valid by them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import Run

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs/reference/schemas"


def validate(document: dict[str, Any], name: str | None = None) -> str:
    """Validate a document by the schema that it names, or that is named; returns the name."""
    name = name or str(document["schema"])
    schema = json.loads((SCHEMAS / f"{name.replace('/', '-')}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    return name


def lines(path: Path) -> list[dict[str, Any]]:
    """The documents of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_schemas_are_up_to_date() -> None:
    assert runpy.run_path(str(ROOT / "docs/schemas.py"))["stale"]() == [], "python docs/schemas.py"


def test_a_document_that_lacks_a_field_is_invalid() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate({"schema": "cmap.attack/1", "exit_code": 0})


def test_purify(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    command = ("purify", images, "--out", "out", "--model", small_model, "--steps", "1", "--json")
    assert validate(json.loads(invoke(*command, "--dry-run").stdout)) == "cmap.purify/1"
    run = invoke(*command)
    assert run.returncode == 0, run.stderr
    assert validate(json.loads(run.stdout)) == "cmap.purify/1"
    validate(json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8")))
    for line in lines(tmp_path / "out/manifest.jsonl"):
        validate(line, "cmap.purify-line/1")


def test_shards_and_merge(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    command = ("purify", images, "--out", "out", "--model", small_model, "--steps", "1", "--json")
    assert validate(json.loads(invoke(*command, "--shard", "1/2").stdout)) == "cmap.purify/1"
    validate(json.loads((tmp_path / "out/part-1-of-2.json").read_text(encoding="utf-8")))
    assert validate(json.loads(invoke("merge", "out", "--json").stdout)) == "cmap.merge/1"


def test_attack_and_benchmark(invoke: Run, tmp_path: Path) -> None:
    quick = ("--n", "1", "--model", "cifar10-gaussian", "--steps", "1", "--num-latents", "2", "--json")
    once = ("--attack", "pgd@transfer", "--attack-steps", "1")
    assert validate(json.loads(invoke("attack", "cifar10", "--out", "a", *once, *quick).stdout)) == "cmap.attack/1"
    for line in lines(tmp_path / "a/manifest.jsonl"):
        validate(line, "cmap.attack-line/1")
    command = ("benchmark", "--out", "b", "--reevaluations", "1", *once, *quick)
    run = invoke(*command)
    assert run.returncode == 0, run.stderr
    assert validate(json.loads(run.stdout)) == "cmap.benchmark-result/1"
    for line in lines(tmp_path / "b/records.jsonl"):
        validate(line, "cmap.record/1")
    validate(json.loads((tmp_path / "b/benchmark.json").read_text(encoding="utf-8")))
    validate(json.loads((tmp_path / "b/report.json").read_text(encoding="utf-8")))
    assert validate(json.loads(invoke("compare", "b", "b", "--json").stdout)) == "cmap.compare/1"


def test_train(invoke: Run, images: Path) -> None:
    run = invoke("train", images, "--out", "model", "--image-size", "8", "--directions", "2", "--json")
    assert run.returncode == 0, run.stderr
    assert validate(json.loads(run.stdout)) == "cmap.train/1"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("purify", "missing.png", "--out", "out"), "cmap.error/1"),
        (("list", "attacks"), "cmap.list/1"),
        (("list", "models"), "cmap.list/1"),
        (("info", "--no-self-test"), "cmap.info/1"),
        (("download-weights", "--list"), "cmap.download-weights/1"),
        (("download-weights", "cifar10-unet", "--offline"), "cmap.download-weights/1"),
    ],
)
def test_documents_of_other_commands(invoke: Run, arguments: tuple[str, ...], name: str) -> None:
    assert validate(json.loads(invoke(*arguments, "--json").stdout)) == name
