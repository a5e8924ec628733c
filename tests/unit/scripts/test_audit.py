"""What pip-audit answers, and what the checks make of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / ".ci" / "audit.py"
SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
VULNERABLE = {
    "name": "jinja2", "version": "3.1.2", "vulns": [{"id": "CVE-2024-22195", "fix_versions": ["3.1.3"], "aliases": []}],
}  # fmt: skip
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.14.1)"}
UNREACHABLE = "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: Failed to resolve 'example.org'"

UNTRUSTED = "requests.exceptions.SSLError: certificate verify failed: self-signed certificate in certificate chain"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "codes", "told"),
    [
        (0, [SOUND], "", (0, 0), "1 packages audited, 0 vulnerabilities"),
        (1, [SOUND, VULNERABLE], "Found 1", (1, 1), "vulnerable: jinja2 3.1.2: CVE-2024-22195, corrected in 3.1.3"),
        (1, [SKIPPED, VULNERABLE], "Found 1", (1, 1), "vulnerable: jinja2"),
        (0, [SOUND, SKIPPED], "", (0, 1), "not audited: Dependency not found on PyPI"),
        (0, [SKIPPED, SKIPPED], "", (0, 1), "and 1 more\n0 packages audited"),
        (0, [], "", (0, 1), "0 packages audited"),
        (1, None, UNREACHABLE, (0, 1), "not audited: requests.exceptions.ConnectionError"),
        (1, None, UNTRUSTED, (0, 1), "not audited: requests.exceptions.SSLError"),
        (1, None, "No module named pip_audit", (1, 1), "pip-audit failed: No module named pip_audit"),
        (1, [SOUND], "something else", (1, 1), "pip-audit failed: something else"),
    ],
)
def test_only_an_unreachable_service_is_passed_over(
    audit: ModuleType,
    code: int,
    stdout: list[dict[str, object]] | None,
    stderr: str,
    codes: tuple[int, int],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = audit.read_answer(code, "" if stdout is None else json.dumps({"dependencies": stdout}), stderr)
    assert (audit.report(answer, required=False), audit.report(answer, required=True)) == codes
    assert told in capsys.readouterr().out


def test_a_service_that_is_not_there_is_asked_once(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def ask(requirements: Path) -> object:
        asked.append(requirements.read_text())
        return audit.Answer(unknown=("no connection",))

    monkeypatch.setattr(audit, "ask", ask)
    monkeypatch.setattr(sys, "argv", ["audit.py", "--required"])
    assert audit.main() == 1
    assert len(asked) == 1
    assert asked[0].count("==") == 1
    assert "not audited: no connection" in capsys.readouterr().out
