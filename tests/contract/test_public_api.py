"""The names that ``import cmap_cli`` offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cmap_cli


@pytest.mark.parametrize("name", cmap_cli.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    value = getattr(cmap_cli, name)
    assert value.__doc__
    assert name in dir(cmap_cli)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        cmap_cli.nonsense  # noqa: B018


def test_importing_the_package_is_quick_and_imports_no_torch() -> None:
    program = (
        "import sys, cmap_cli\n"
        "heavy = {'torch', 'numpy', 'PIL', 'torchvision', 'msgspec', 'typer', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
