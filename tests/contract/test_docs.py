"""The documents are true: symbols exist, the README's commands run."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from benchmarks.access_levels import table

from cmap_cli.benchmarking.certificates.tsv import read_tsv
from cmap_cli.benchmarking.compare import rights
from cmap_cli.benchmarking.report.build import build_report
from tests.conftest import Run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = {"reference/commands.md", "commands.md"}  # by docs/hooks.py; `mkdocs build --strict` checks links to them
COMMANDS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def symbols() -> list[str]:
    return re.findall(
        r"`((?:cmap_cli|benchmarks)[\w.]*:\w+)`", (ROOT / "docs/explanation/paper-map.md").read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("symbol", symbols())
def test_every_symbol_of_the_paper_map_exists(symbol: str) -> None:
    module, name = symbol.split(":")
    assert getattr(importlib.import_module(module), name)


def test_there_are_symbols() -> None:
    assert len(symbols()) > 15


def test_the_first_command_purifies_the_examples(invoke: Run, tmp_path: Path) -> None:
    command = COMMANDS[0].replace("\\\n", " ").strip()
    assert "pip install ." in command
    arguments = shlex.split(command[command.index("cmap purify") :])
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run = invoke(*arguments[1:])
    assert run.returncode == 0, run.stderr
    assert "24 images purified into clean" in run.stdout
    regained = re.search(r"(\d+) of 12 that were wrong are correct after purification", run.stdout)
    assert regained
    assert int(regained[1]) >= 1
    assert len(list((tmp_path / "clean").rglob("*.png"))) == 25


def test_the_photographs_of_the_readme_are_purified_as_it_says(invoke: Run, tmp_path: Path) -> None:
    command = re.search(r"cmap purify examples/photos .*", README)
    assert command
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run = invoke(*shlex.split(command[0])[1:])
    assert run.returncode == 0, run.stderr
    assert "6 images purified into clean-photos with photo-unet" in run.stdout
    assert "1 of 3 that were wrong are correct after purification" in run.stdout
    assert (tmp_path / "clean-photos" / "comparison.png").exists()


def test_the_second_command_runs_the_tests() -> None:
    assert re.search(r"pip install .*\[dev\]", COMMANDS[1])
    assert COMMANDS[1].strip().endswith("pytest")


def test_the_python_examples_run_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs/reference/python.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", README + page, re.DOTALL)
    assert len(examples) == 3
    for code in examples:
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert "Prediction(before='bird', after='cat', vote='cat')" in capsys.readouterr().out


def test_the_readme_is_short_and_accepts_no_licence() -> None:
    assert len(README.splitlines()) <= 120
    assert "--accept-licence" not in README


@pytest.mark.parametrize("name", sorted(each.name for each in (ROOT / "docs/lab/records").iterdir() if each.is_dir()))
def test_kept_records_make_their_reports_and_the_tables_of_the_page(name: str, invoke: Run, tmp_path: Path) -> None:
    for file in ("benchmark.json", "records.jsonl"):
        (tmp_path / file).write_bytes((ROOT / "docs/lab/records" / name / file).read_bytes())
    run = invoke("benchmark", "--report-only", str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert "Robust accuracy" in run.stdout + run.stderr
    page = (ROOT / "docs/lab/results.md").read_text(encoding="utf-8")
    for line in table(dict(rights(build_report(tmp_path)))).splitlines():
        assert line in page


def test_kept_certificates_make_the_figure_of_the_page() -> None:
    rows = read_tsv(ROOT / "docs/lab/records/certify-adapted-sigma-0.25.tsv")
    certified = sum(row.correct and row.radius >= 0.25 for row in rows)
    page = (ROOT / "docs/lab/certificates.md").read_text(encoding="utf-8")
    assert f"{certified} of {len(rows)} ({certified / len(rows):.1%})".replace("%", " %") in page


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("examples/*.md"))):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            if not target.startswith("https://") and target not in GENERATED:
                assert (document.parent / target).exists(), f"{document}: {target}"
