"""The house keeps its shape: ten packages, few modules at the top, short modules and functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "cmap_cli"
PACKAGES = {
    "attacks",
    "benchmarking",
    "cli",
    "core",
    "data",
    "defenses",
    "models",
    "purify",
    "runs",
    "training",
}
LONGEST_MODULE = 300
LONGEST_FUNCTION = 60
BACKBONES = "models/networks"
"""A network is one file, however long."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_the_top_has_ten_packages_and_six_modules_at_most() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == PACKAGES
    assert {path.name for path in PACKAGE.glob("*.py")} <= {
        "__init__.py",
        "__main__.py",
        "choices.py",
        "device.py",
        "errors.py",
        "files.py",
    }


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not path.relative_to(PACKAGE).as_posix().startswith(BACKBONES):
        assert text.count("\n") <= LONGEST_MODULE
    for function in functions(text):
        assert length(function, path) <= LONGEST_FUNCTION, function.name


def functions(text: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef))


def length(function: ast.FunctionDef, path: Path) -> int:
    """Lines of a function; of a command and of a public call only the body: its options are its signature."""
    end = function.end_lineno or function.lineno
    if path.parent.name == "cli" and function.args.defaults:
        body = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
        return end - body.lineno + 1
    return end - function.lineno + 1


def test_html_is_written_in_templates_only() -> None:
    for path in (PACKAGE / "benchmarking").rglob("*.py"):
        assert "</" not in path.read_text(encoding="utf-8"), path


def test_files_are_renamed_in_one_place() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if path.name != "files.py":
            assert "ENOSPC" not in text, path
            assert ".tmp" not in text, path


IMPLEMENTATIONS = {
    "attacked_module": "a row of DEFENSES names one in each module of defenses/",
    "read": "a row of FORMATS names one in each module of models/formats/",
    "restore": "the protocol Family: one in each network family of models/networks/",
    **dict.fromkeys(
        ("attack", "benchmark", "certify", "compare", "download_weights", "train"),
        "a command of cli/ is called as the function of the library that it calls",
    ),
}
"""Names that several modules may define, and why."""


def test_a_public_name_has_one_home() -> None:
    homes: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                homes.setdefault(node.name, []).append(path.relative_to(PACKAGE).as_posix())
    shared = {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")}
    assert {name: found for name, found in shared.items() if name not in IMPLEMENTATIONS} == {}
    assert sorted(IMPLEMENTATIONS) == sorted(shared), "an exception that nothing needs any more"
