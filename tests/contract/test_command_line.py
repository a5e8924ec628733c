"""The contract of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from cmap_cli.cli.app import app
from tests.conftest import Run


def test_help_imports_no_torch() -> None:
    program = (
        "import sys; sys.argv = ['cmap', '--help']\n"
        "from cmap_cli.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert leaving.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'torchvision', 'msgspec', 'filelock', 'requests'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy), file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "heavy: []" in run.stderr
    for command in ("purify", "attack", "benchmark", "merge", "train", "download-weights"):
        assert command in run.stdout


def test_help_of_every_command_has_examples_and_panels(invoke: Run) -> None:
    for command in ("purify", "attack", "benchmark", "certify", "merge", "train", "download-weights"):
        for flag in ("-h", "--help"):
            run = invoke(command, flag)
            assert run.returncode == 0
            assert f"cmap {command}" in run.stdout
            assert "Examples:" in run.stdout
            assert "Input and output" in run.stdout


COMMANDS = [command.name for command in typer.main.get_command(app).commands.values()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_cuts_nothing(invoke: Run, command: str) -> None:
    for flag in ("--help", "--help-all"):
        run = invoke(command, flag, COLUMNS="80")
        assert run.returncode == 0, run.stderr
        assert "…" not in run.stdout
        assert max(map(len, run.stdout.splitlines())) <= 80


def test_help_begins_with_what_one_needs_first(invoke: Run) -> None:
    for command, first, later in (
        ("purify", ["INPUT", "--out", "--model", "--classifier", "--device"], ["--lpips-trunk", "--precision"]),
        ("benchmark", ["--attack", "--eps", "--fail-under", "--n"], ["--unroll", "--fail-on-weak", "--chunk"]),
        ("attack", ["IMAGES", "--attack", "--out"], ["--smoothing", "--seed"]),
        ("train", ["IMAGES", "--kind", "--out"], ["--preconditioning", "--lr"]),
    ):
        short, full = invoke(command, "--help").stdout, invoke(command, "--help-all").stdout
        for option in first:
            assert option in short
        for option in later:
            assert option not in short
            assert option in full
        assert set(short.split()) <= set(full.split())
        assert "--help-all" in short
        assert invoke(command, "--help").stdout == short  # not changed by the full page


def test_version(invoke: Run) -> None:
    for flag in ("-V", "--version"):
        run = invoke(flag)
        assert run.returncode == 0
        assert run.stdout.startswith("cmap 0.")


def test_list_names_what_the_options_take(invoke: Run) -> None:
    for what, name in (
        ("models", "cifar10-unet"),
        ("classifiers", "pyautoattack-resnet18"),
        ("attacks", "autoattack"),
        ("datasets", "cifar10"),
    ):
        run = invoke("list", what)
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[2].startswith(f"| {name} | ")
        assert name in invoke("list", what, "--quiet").stdout.splitlines()
        document = json.loads(invoke("list", what, "--json").stdout)
        assert document["schema"] == "cmap.list/1"
        assert name in [row["name"] for row in document[what]]


def test_info_tests_the_installation(invoke: Run) -> None:
    run = invoke("info")
    assert run.returncode == 0, run.stdout + run.stderr
    for text in ("| cmap | 0.", "torch 2.", "| device | cpu", "cifar10-unet (bundled)", "| self-test | passed"):
        assert text in run.stdout
    document = json.loads(invoke("info", "--no-self-test", "--json").stdout)
    assert document["schema"] == "cmap.info/1"
    assert document["self_test"] is None


def test_info_fails_where_the_self_test_does(invoke: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr("cmap_cli.models.zoo.load_model", fail)
    run = invoke("info", "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["exit_code"]) == (1, 1)
    assert document["self_test"]["error"] == "no kernel image is available"


def test_usage_errors_are_two_lines_and_exit_2(invoke: Run) -> None:
    for arguments in (
        ["purify"],
        ["purify", "x", "--out", "y", "--preset", "nonsense"],
        ["purify", "x", "--nonsense"],
        ["x"],
    ):
        run = invoke(*arguments)
        assert run.returncode == 2, arguments
        assert run.stdout == ""
        lines = run.stderr.strip().splitlines()
        assert lines[0].startswith("error: "), run.stderr
        assert lines[-1].startswith("hint: ")
        assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            "purify nothing.png --out y --model cifar10-unt --classifier resnet --select vot --steps 0",
            [
                ("--steps 0 is below 1", "cmap purify --help"),
                ("--select vot is none of best, mean, medoid, vote", "did you mean vote?"),
                ("no consistency model is called cifar10-unt", "did you mean cifar10-unet?"),
                ("no classifier is called resnet", "cmap list classifiers"),
                ("'nothing.png' cannot be found", "Name a file, a folder, a pattern in quotes, or - for stdin"),
            ],
        ),
        (
            "purify --steps x --foo 3",
            [
                ("there is no option --foo", "did you mean --format?"),
                ("--out is missing", "cmap purify --help"),
                ("--steps x is no whole number", "cmap purify --help"),
            ],
        ),
        (
            "benchmark --eps 8 --attack pdg --smoothing a --fail-under-clean 2",
            [
                ("--smoothing a is no number", "cmap benchmark --help"),
                ("--fail-under-clean 2 is above 1", "cmap benchmark --help"),
                ("there is no attack 'pdg'", "did you mean pgd?"),
                ("--eps 8 is above 1, the whole range of a pixel", "pixels are in [0, 1]: write 8/255"),
            ],
        ),
        ("purify x --out", [("--out needs a value", "cmap purify --help")]),
        ("purify", [("INPUT is missing", "cmap purify --help"), ("--out is missing", "cmap purify --help")]),
        ("info --json=3", [("--json takes no value", "--json alone")]),
        ("list models b", [("b is too much: there is no such argument", "cmap list --help")]),
        ("list model", [("WHAT model is none of models, classifiers, attacks, datasets", "did you mean models?")]),
        (
            "download-weights cifar10-cd-lips",
            [("no weights are called cifar10-cd-lips", "did you mean cifar10-cd-lpips?")],
        ),
        ("benchmark --dataset cifar1O", [("no data set, file or folder is called 'cifar1O'", "did you mean cifar10?")]),
        ("benchmark --access whitebox", [("--access whitebox does not exist", "did you mean white-box?")]),
        (
            "benchmark --attack pdg --fail-under x --require-access whitebox --baseline nothing --budget x --dataset y",
            [
                ("--fail-under x is not a threshold", "write 0.5, white-box=0.3, white-box@4/255=0.2 or"),
                ("--require-access whitebox does not exist", "did you mean white-box?"),
                ("nothing does not exist", "name a folder of cmap benchmark, or its report.json"),
                ("--budget x is not a duration", "write 90s, 10m or 2h"),
                ("no data set, file or folder is called 'y'", "cifar10, imagenet100:FOLDER, a folder of class folders"),
                ("there is no attack 'pdg'", "did you mean pgd?"),
            ],
        ),
        (
            "certify --samples x --sigma 20 --fail-under 0.3 --model cifar10-unt --shard 3/2",
            [
                ("--samples x is no whole number", "cmap certify --help"),
                ("--fail-under 0.3 is not a radius and a share", "write 0.25=0.3"),
                ("--shard 3/2 is not a shard", "--shard 1/4 to --shard 4/4 are the shards of four"),
                ("no consistency model is called cifar10-unt", "did you mean cifar10-unet?"),
                ("--sigma 20 is not above 0 and below 10", "noise for images in [0, 1]: 0.12, 0.25, 0.5, 1"),
            ],
        ),
        (
            "train nothing --out o --kind unet --widths a,b --lr -1 --image-size 33 --init cifar10-unt",
            [
                ("--widths a,b is not a list of multiples of 16", "--widths 64,128,128"),
                ("--lr -1.0 is not a positive number", "--lr 8e-4"),
                ("--image-size 33 is no multiple of 16, which a unet of 4 levels needs", ""),
                ("no consistency model is called cifar10-unt", "did you mean cifar10-unet?"),
                ("'nothing' cannot be found", "Name a file, a folder, a pattern in quotes, or - for stdin"),
            ],
        ),
        (
            "compare a b --picture x.png --alpha 2",
            [
                ("--picture x.png is not an SVG file", "--picture compare.svg"),
                ("--alpha 2 is not between 0 and 1", "--alpha 0.05"),
                ("a does not exist", "name a folder of cmap benchmark, or its report.json"),
                ("b does not exist", "name a folder of cmap benchmark, or its report.json"),
            ],
        ),
        (
            "merge a b --fail-under z --fail-on never",
            [
                ("--fail-on never is none of estimate, interval", "one of estimate, interval"),
                ("a is no folder", "name folders that cmap has written to"),
                ("b is no folder", "name folders that cmap has written to"),
                ("2 folders need a place for the whole", "--out DIR"),
                ("--fail-under z is not a threshold", "write 0.5"),
            ],
        ),
        (
            "download-weights lpips cifar10-cd-lips --all --timeout x",
            [
                ("--timeout x is no number", "cmap download-weights --help"),
                ("names, --all, --list, --verify and --check-manifest exclude each other", "give one of them"),
                ("no weights are called lpips", "did you mean lpips-vgg?"),
                ("no weights are called cifar10-cd-lips", "did you mean cifar10-cd-lpips?"),
            ],
        ),
        (
            "list model --foo",
            [
                ("there is no option --foo", "cmap list --help"),
                ("WHAT model is none of models, classifiers, attacks, datasets", "did you mean models?"),
            ],
        ),
        (
            "benchmark --report-only nothing",
            [("--report-only nothing is no folder that exists", "cmap benchmark --help")],
        ),
        ("purfy", [("there is no command 'purfy'", "did you mean purify?")]),
        ("", [("no command is given", "cmap purify ./images --out ./clean")]),
    ],
)
def test_all_mistakes_are_named_at_once_in_our_words(
    invoke: Run, arguments: str, expected: list[tuple[str, str]]
) -> None:
    run = invoke(*arguments.split())
    assert run.returncode == 2
    errors = [line.removeprefix("error: ")[:-1] for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [message for message, _ in expected]
    for _, hint in expected:
        assert not hint or f"hint: {hint}" in run.stderr
    for foreign in ("Value error", "Input should", "Invalid value", "Missing argument", "No such"):
        assert foreign not in run.stderr


def test_json_is_one_document_on_failure_too(invoke: Run) -> None:
    for arguments, code in (
        (["purify", "nothing", "--out", "y", "--json"], 2),
        (["purify", "--json"], 2),
        (["merge", "nothing", "--json"], 2),
        (["train", "nothing", "--out", "y", "--json"], 2),
        (["download-weights", "nothing", "--json"], 2),
    ):
        run = invoke(*arguments)
        assert run.returncode == code
        document = json.loads(run.stdout)
        assert document["schema"] == "cmap.error/1"
        assert document["exit_code"] == code
        assert document["errors"][0]["error"]


def test_debug_shows_the_traceback(invoke: Run) -> None:
    run = invoke("purify", "nothing", "--out", "y", CMAP_DEBUG="1")
    assert "Traceback" in run.stderr
