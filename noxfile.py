"""The tasks: ``nox`` runs check and test; ``nox -s NAME`` runs one, ``nox -l`` lists them.

Sessions use the environment that nox runs in (``pip install -e '.[dev]'``), so that nothing is installed twice.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "test"]


@nox.session
def check(session: nox.Session) -> None:
    """Lint, format, types, layers, schemas, documentation: everything that is quick."""
    session.run("ruff", "check", ".", external=True)
    session.run("ruff", "format", "--check", ".", external=True)
    session.run("mypy", external=True)
    session.run("lint-imports", external=True)
    session.run("python", "docs/schemas.py", "--check", external=True)
    docs(session)


@nox.session
def test(session: nox.Session) -> None:
    """The tests of every commit; arguments after -- go to pytest."""
    session.run("pytest", *session.posargs, external=True)


@nox.session
def slow(session: nox.Session) -> None:
    """All tests but those that need an accelerator."""
    session.run("pytest", "-m", "not accelerator", *session.posargs, external=True)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests of every commit, with the share of lines that they run; fails under the limit of pyproject.toml."""
    session.run("pytest", "--cov", "--cov-report=term:skip-covered", *session.posargs, external=True)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The properties of tests/hostile for an hour; ``nox -s fuzz -- --seconds 600`` for another time."""
    session.run("python", "-W", "ignore", "-m", "tests.hostile.fuzz", *session.posargs, external=True)


@nox.session
def kills(session: nox.Session) -> None:
    """End commands 200 times at random moments and compare results; ``nox -s kills -- --kills 20`` for fewer."""
    session.run("python", "-m", "tests.hostile.kills", *session.posargs, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the locked packages; ``-- --required`` fails if the service cannot be reached."""
    session.run("python", ".ci/audit.py", *session.posargs, external=True)


@nox.session(venv_backend="venv")
def lock(session: nox.Session) -> None:
    """Write requirements-dev.txt anew, versions kept where they fit; ``-- --upgrade`` takes the newest."""
    session.install("uv")
    options = ["--universal", "--generate-hashes", "--no-emit-index-url", "--python-version", "3.11.5", "--quiet"]
    named = ["--custom-compile-command", "nox -s lock", "--output-file", "requirements-dev.txt"]
    session.run("uv", "pip", "compile", "pyproject.toml", "--extra", "dev", *options, *named, *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel twice and compare the bytes; pip downloads the build backend for it."""
    digests = set()
    for name in ("one", "two"):
        folder = Path(session.create_tmp(), name)
        shutil.rmtree(folder, ignore_errors=True)
        session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), ".", external=True)
        (built,) = folder.glob("*.whl")
        digests.add(hashlib.sha256(built.read_bytes()).hexdigest())
    if len(digests) != 1:
        session.error("two builds gave different wheels")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into build/site; a warning, such as a link that leads nowhere, fails."""
    session.run("mkdocs", "build", "--strict", "--quiet", external=True, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def fix(session: nox.Session) -> None:
    """Format, apply safe fixes, write schemas again."""
    session.run("ruff", "check", "--fix", ".", external=True)
    session.run("ruff", "format", ".", external=True)
    session.run("python", "docs/schemas.py", external=True)
