"""Comparing two runs: what is paired, what is refused, what fails a gate."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from cmap_cli.benchmarking.compare import Comparison, compare, write_picture
from cmap_cli.benchmarking.report.write import write_report
from cmap_cli.errors import CmapError, UsageError
from tests.conftest import Run
from tests.fake_benchmark import write_benchmark

ATTACKS = ("autoattack@transfer", "pgd@white-box")


def change(folder: Path, images: range, attack: str, *, right: bool) -> None:
    """Rewrite the draws of some images under one attack at 8/255."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for line in lines:
        if line["attack"] == attack and line["eps"] == "8/255" and line["image"] in images:
            line["draws"] = [line["label"] if right else (line["label"] + 1) % 10] * len(line["draws"])
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def cut_short(folder: Path) -> None:
    """Take the last record of an attack away."""
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"pgd"' in line)
    (folder / "records.jsonl").write_text("".join(lines[:last] + lines[last + 1 :]))


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal runs, but that the second is wrong on twelve images under white-box PGD that the first has right."""
    folders = [
        write_benchmark(tmp_path / name, n=30, attacks=ATTACKS, defenses=("cmap",), pictures=False)
        for name in ("base", "new")
    ]
    for folder, right in zip(folders, (True, False), strict=True):
        change(folder, range(12), "pgd", right=right)
    return folders[0], folders[1]


def row(comparison: Comparison, text: str):  # type: ignore[no-untyped-def]
    (found,) = [each for each in comparison.rows if str(each.condition).startswith(text)]
    return found


def test_a_drop_is_found_where_it_is_and_nowhere_else(runs: tuple[Path, Path]) -> None:
    found = compare(*runs)
    worse = row(found, "pgd@white-box, Linf 8/255")
    assert (worse.n, worse.lost, worse.gained, worse.regression) == (30, 12, 0, True)
    assert worse.p == pytest.approx(2 / 2**12)
    assert worse.difference == pytest.approx(-0.4)
    assert worse.low < worse.difference < worse.high < 0
    assert row(found, "worst case of 2 attacks, Linf 8/255").regression
    others = [each for each in found.rows if each.lost]
    assert {each.condition.eps for each in others} == {"8/255"}
    assert {str(each.condition).split(",")[0] for each in found.rows} == {
        "clean",
        *ATTACKS,
        "worst case of 2 attacks",
    }
    assert not found.problems
    back = compare(runs[1], runs[0])
    assert not back.regressions
    assert row(back, "pgd@white-box, Linf 8/255").improvement


def test_reports_say_the_same_as_folders(runs: tuple[Path, Path]) -> None:
    from_folders = compare(*runs)
    for folder in runs:
        write_report(folder)
    from_reports = compare(*(folder / "report.json" for folder in runs))
    assert from_reports.rows == from_folders.rows


def test_alpha_is_kept_and_checked(runs: tuple[Path, Path]) -> None:
    assert not compare(*runs, alpha=1e-9).regressions
    for alpha in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="--alpha"):
            compare(*runs, alpha=alpha)


def test_other_images_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_benchmark(tmp_path / "other", n=20, attacks=ATTACKS, defenses=("cmap",), pictures=False)
    with pytest.raises(UsageError, match="not on the same images: they differ in n, indices"):
        compare(runs[0], other)
    with pytest.raises(UsageError, match="does not exist"):
        compare(runs[0], tmp_path / "nothing")
    (tmp_path / "broken.json").write_text("[1]")
    with pytest.raises(UsageError, match=r"broken\.json is damaged"):
        compare(runs[0], tmp_path / "broken.json")
    with pytest.raises(CmapError):
        compare(runs[0], tmp_path)


def test_missing_conditions_and_other_budgets_are_problems(runs: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = write_benchmark(tmp_path / "fewer", n=30, attacks=ATTACKS[:1], defenses=("cmap",), pictures=False)
    found = compare(runs[0], fewer)
    assert "pgd@white-box, Linf 8/255, cmap is missing in" in " ".join(found.problems)
    none_shared = write_benchmark(tmp_path / "none", n=30, attacks=("pgd@bpda",), defenses=("cmap",), pictures=False)
    with pytest.raises(UsageError, match="share no attack"):
        compare(runs[0], none_shared)
    weak = write_benchmark(
        tmp_path / "weak", n=30, attacks=ATTACKS, defenses=("cmap",), pictures=False, budget={"steps": 1}
    )
    assert "the attacks differ in budget" in compare(runs[0], weak).problems
    cut_short(runs[1])
    assert any("is not complete" in problem for problem in compare(*runs).problems)


def test_one_defence_each_is_compared_under_both_names(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_benchmark(tmp_path / "jpeg", n=30, attacks=ATTACKS, defenses=("onestep",), pictures=False)
    assert row(compare(runs[0], other), "clean").condition.defense == "cmap → onestep"


def test_the_picture_shows_every_condition(runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(*runs)
    write_picture(tmp_path / "c.svg", found)
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    assert len(root.findall(".//{http://www.w3.org/2000/svg}circle")) == 2 * len(found.rows)


def test_names_in_the_picture_are_escaped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    odd = msgspec.structs.replace(compare(*runs), base="a <b> & c")
    write_picture(tmp_path / "c.svg", odd)
    assert "ring a <b> & c" in "".join(ElementTree.parse(tmp_path / "c.svg").getroot().itertext())


def test_the_exit_code_of_compare(invoke: Run, runs: tuple[Path, Path], tmp_path: Path) -> None:
    base, new = map(str, runs)
    plain = invoke("compare", base, new)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.startswith("| condition | base | new |")
    assert "2 significantly worse" in plain.stdout
    failed = invoke("compare", base, new, "--fail-on-regression")
    assert failed.returncode == 1
    assert "error: pgd@white-box, Linf 8/255, cmap:" in failed.stderr
    assert invoke("compare", base, base, "--fail-on-regression").returncode == 0
    document = json.loads(invoke("compare", base, new, "--json", "--fail-on-regression").stdout)
    assert (document["schema"], document["exit_code"], len(document["failures"])) == ("cmap.compare/1", 1, 2)
    assert invoke("compare", base, new, "--picture", "x.png").returncode == 2
    quiet = invoke("compare", base, new, "--picture", "x.svg", "--quiet")
    assert quiet.stdout == "x.svg\n"
    assert (tmp_path / "x.svg").exists()


def test_an_incomplete_run_never_passes(invoke: Run, runs: tuple[Path, Path]) -> None:
    cut_short(runs[1])
    run = invoke("compare", str(runs[1]), str(runs[1]), "--fail-on-regression")
    assert run.returncode == 1
    assert "is not complete" in run.stderr
