"""Writes docs/reference/schemas/*.json and the table of docs/reference/json.md from the types of the documents.

python docs/schemas.py          # write
python docs/schemas.py --check  # exit with 1 if a file is not up to date
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from cmap_cli.runs.documents import Document

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/reference/schemas"
PAGE = ROOT / "docs/reference/json.md"
BEGIN, END = "<!-- begin: docs/schemas.py -->", "<!-- end -->"
OTHERS = {
    "cmap.record/1": "cmap_cli.benchmarking.documents:BenchmarkRecord",
    "cmap.certificate/1": "cmap_cli.benchmarking.certificates.documents:CertificateRecord",
    "cmap.attack-line/1": "cmap_cli.benchmarking.documents:AttackLine",
    "cmap.purify-line/1": "cmap_cli.purify.documents:ImageRecord",
    "cmap.report/1": "cmap_cli.benchmarking.report.values:Report",
    "cmap.benchmark/1": "cmap_cli.benchmarking.documents:BenchmarkDocument",
    "cmap.compare/1": "cmap_cli.benchmarking.compare:Comparison",
    "cmap.info/1": "cmap_cli.purify.diagnosis:Diagnosis",
    "cmap.part/1": "cmap_cli.runs.progress:PartDocument",
}
"""Types that are not found in modules ``documents``: lines of JSON Lines files, and those without a default schema."""


def document_types() -> dict[str, list[Any]]:
    """All types of documents and lines, by the name of their schema; the base class ``Document`` has none."""
    source = ROOT / "src"
    found: dict[str, list[Any]] = {}
    for schema, where in OTHERS.items():
        module_name, _, name = where.partition(":")
        found[schema] = [getattr(importlib.import_module(module_name), name)]
    for path in sorted(source.glob("cmap_cli/**/documents.py")):
        module = importlib.import_module(".".join(path.relative_to(source).with_suffix("").parts))
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != module.__name__ or not issubclass(kind, Document):
                continue
            field = next(field for field in msgspec.structs.fields(kind) if field.name == "schema")
            for schema in (field.default, *get_args(field.type)):  # a default, or a Literal
                if isinstance(schema, str) and kind not in found.setdefault(schema, []):
                    found[schema].append(kind)
    return dict(sorted(found.items()))


def schema_of(name: str, kinds: list[Any]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the variants of one document."""
    references, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for kind in kinds:
        properties = components[kind.__name__].get("properties", {})
        if "schema" in properties:
            properties["schema"] = {"const": name}
            required = components[kind.__name__].setdefault("required", [])
            required += [] if "schema" in required else ["schema"]
    variants = references[0] if len(references) == 1 else {"anyOf": list(references)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        **variants,
        "$defs": {key: shorter(components[key]) for key in sorted(components)},
    }


def shorter(component: dict[str, Any]) -> dict[str, Any]:
    """A component with the first paragraph of its description."""
    if "description" in component:
        component["description"] = first_paragraph(component["description"])
    return component


def first_paragraph(docstring: str) -> str:
    """The first paragraph in one line, ``:class:`~a.b.C``` as `C`."""
    text = " ".join(docstring.split("\n\n", maxsplit=1)[0].split())
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)


def file_name(name: str) -> str:
    """``cmap.purify/1`` -> ``cmap.purify-1.json``."""
    return name.replace("/", "-") + ".json"


def table(documents: dict[str, list[Any]]) -> str:
    """The table of the page: each document, its variants in words, its schema."""
    rows = ["| document | what it is | schema |", "| --- | --- | --- |"]
    for name, kinds in documents.items():
        what = " ".join(first_paragraph(inspect.getdoc(kind) or "").replace("``", "`") for kind in kinds)
        rows.append(
            f"| `{name}` | {what.replace('|', chr(92) + '|')} | [{file_name(name)}](schemas/{file_name(name)}) |"
        )
    return "\n".join(rows)


def wanted() -> Iterator[tuple[Path, str]]:
    """Every generated file with its content."""
    documents = document_types()
    for name, kinds in documents.items():
        content = msgspec.json.format(msgspec.json.encode(schema_of(name, kinds)), indent=2).decode()
        yield FOLDER / file_name(name), content + "\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    yield PAGE, f"{before}{BEGIN}\n\n{table(documents)}\n\n{END}{rest.partition(END)[2]}"


def stale() -> list[str]:
    """Files that are not what the types say, and schemas of no type."""
    files = dict(wanted())
    old = [path for path, content in files.items() if not path.exists() or path.read_text(encoding="utf-8") != content]
    return [str(path.relative_to(ROOT)) for path in [*old, *(path for path in FOLDER.glob("*") if path not in files)]]


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file is not up to date")
    if parser.parse_args().check:
        found = stale()
        for path in found:
            sys.stderr.write(f"{path} is not up to date: python docs/schemas.py\n")
        return int(bool(found))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*"):
        path.unlink()
    for path, content in wanted():
        path.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
