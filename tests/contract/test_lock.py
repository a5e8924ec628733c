"""requirements-dev.txt pins what pyproject.toml asks for, with hashes, wherever packages are taken from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
PINNED = re.compile(r"^([\w.-]+)==(\S+)(?: ; [^\\\n]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
REMEDY = "requirements-dev.txt does not fit pyproject.toml: nox -s lock"


def wanted(extra: str | None = None) -> Iterator[Requirement]:
    """The requirements of the project or of an extra, and those of the extras that it names."""
    for line in PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                yield from wanted(inner)
        else:
            yield requirement


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pinned = {name: version for name, version, _ in PINNED.findall(LOCK)}
    for requirement in [*wanted(), *wanted("dev")]:
        version = pinned.get(requirement.name.lower().replace("_", "-"))
        assert version is not None and version in requirement.specifier, f"{requirement}: {REMEDY}"


def test_every_line_is_a_pin_with_hashes_and_no_address() -> None:
    rest = [line for line in PINNED.sub("", LOCK).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert rest == []
    assert "//" not in LOCK
    assert " /" not in LOCK
