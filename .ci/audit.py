"""Ask PyPI, with pip-audit, whether the packages of requirements-dev.txt have known vulnerabilities.

The exit code is 1 if there are any. Where the service cannot be reached nothing is known: then this prints "not
audited" and the reason, and exits with 0; with ``--required`` that is a failure too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parents[1] / "requirements-dev.txt"
NO_NETWORK = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|ProxyError|NameResolutionError|SSLError|Could not connect"
)
"""In what pip-audit says when it does not reach the service, or does not trust the server that answers."""


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        vulnerable: a line for each vulnerability.
        unknown: a line for each package that the service did not answer for, or the one reason for all.
        audited: packages that it did answer for.
        failure: what went wrong, if pip-audit failed for another reason than the network.
    """

    vulnerable: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    audited: int = 0
    failure: str = ""


def ask(requirements: Path) -> Answer:
    """Run pip-audit on a file of pinned requirements."""
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "--requirement", str(requirements)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return read_answer(run.returncode, run.stdout, run.stderr)


def read_answer(code: int, stdout: str, stderr: str) -> Answer:
    """The meaning of what pip-audit printed."""
    last = (stderr.strip().splitlines() or [f"exit code {code}"])[-1][:300]
    try:
        dependencies: list[dict[str, Any]] = json.loads(stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Answer(unknown=(last,)) if NO_NETWORK.search(stderr) else Answer(failure=last)
    found = tuple(
        f"{each['name']} {each['version']}: {known['id']}, corrected in {', '.join(known['fix_versions']) or 'none'}"
        for each in dependencies
        for known in each.get("vulns", ())
    )
    unknown = tuple(each["skip_reason"] for each in dependencies if "skip_reason" in each)
    if code and not found:
        return Answer(failure=last)
    return Answer(found, unknown, len(dependencies) - len(unknown))


def first_of(requirements: Path) -> str:
    """The first requirement of a file, without hashes."""
    (pinned, *_) = re.findall(r"^[\w.-]+==[^\s;\\]+", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return str(pinned)


def audit(requirements: Path) -> Answer:
    """The answer for all packages; if there is none for the first, the others are not asked for."""
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder, "one.txt")
        one.write_text(first_of(requirements) + "\n", encoding="utf-8")
        probe = ask(one)
    return ask(requirements) if probe.audited else probe


def report(answer: Answer, required: bool) -> int:
    """Print the answer; returns the exit code."""
    for line in answer.vulnerable:
        print(f"vulnerable: {line}")
    if answer.failure:
        print(f"pip-audit failed: {answer.failure}")
    if answer.unknown:
        more = f" and {len(answer.unknown) - 1} more" if len(answer.unknown) > 1 else ""
        print(f"not audited: {answer.unknown[0]}{more}")
    print(f"{answer.audited} packages audited, {len(answer.vulnerable)} vulnerabilities found")
    return int(bool(answer.vulnerable or answer.failure or (required and (answer.unknown or not answer.audited))))


def main() -> int:
    """Audit the lock file of the development environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--required", action="store_true", help="fail if the service cannot be reached")
    options = parser.parse_args()
    return report(audit(LOCK), options.required)


if __name__ == "__main__":
    sys.exit(main())
