"""``cmap info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cmap_cli.cli import console, options

if TYPE_CHECKING:
    from cmap_cli.purify.diagnosis import Diagnosis


def info(
    self_test: Annotated[
        bool,
        typer.Option("--self-test/--no-self-test", help="Purify four bundled images.", rich_help_panel=options.RUNTIME),
    ] = True,
    json: options.Json = False,
    device: options.Device = "auto",
    weights_dir: options.WeightsDir = None,
    help_all: options.HelpAll = False,
) -> None:
    """Show versions, device, extras and weights of this installation, and test it; fit for pasting into an issue.

    Examples:

      cmap info

      cmap info --no-self-test --json

    The exit code is 1 if the self-test fails.
    """
    from cmap_cli.purify.diagnosis import diagnose

    with console.working("looking at this installation", quiet=json):
        found = diagnose(device, weights_dir, self_test=self_test)
    if json:
        console.result_json(found)
    else:
        console.table(("cmap", found.version), diagnosis_rows(found))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def diagnosis_rows(found: Diagnosis) -> list[tuple[str, str]]:
    """The diagnosis in rows of a name and a value."""

    def listed(versions: dict[str, str | None], missing: str) -> str:
        return ", ".join(f"{name} {version or missing}" for name, version in versions.items())

    threads = console.count(found.threads, "thread")
    rows = [
        ("Python", found.python),
        ("packages", listed(found.packages, "missing")),
        ("extras", listed(found.extras, "not installed")),
        ("device", f"{found.device}, precision {found.precision}, {threads}, {found.memory_gib} GiB free"),
        ("weights", ", ".join(f"{name} ({state})" for name, state in found.weights.items())),
        ("cache", found.cache),
    ]
    if found.environment:
        rows.append(("environment", ", ".join(f"{name}={value}" for name, value in found.environment.items())))
    test = found.self_test
    if test is None:
        rows.append(("self-test", "not run"))
    elif test.passed:
        rows.append(("self-test", f"passed in {test.seconds} s (PSNR {test.psnr} dB)"))
    else:
        rows.append(("self-test", f"FAILED after {test.seconds} s: {test.error}"))
    return rows
