"""``cmap purify`` as a user runs it, on real files; a process where kills, signals or a full disk are tested."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Run
from tests.forked import ForkedProcess

PATH = os.environ.get("PYTHONPATH", "")
QUICK = ("--preset", "fast", "--steps", "3", "--num-latents", "2")


def manifest(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def written(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}


def test_a_folder_is_mirrored_and_recorded(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    run = invoke("purify", "in", "--out", "clean", "--model", small_model, *QUICK, "--compare")
    assert run.returncode == 0, run.stderr
    assert "5 images purified into clean" in run.stdout
    out = tmp_path / "clean"
    names = {"a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"}
    assert set(written(out)) == names | {"comparison.png"}
    records = manifest(out)
    assert {record["output"] for record in records} == names
    for record in records:
        assert record["source"] == f"in/{record['output']}"
        assert (record["width"], record["height"], record["fit"], record["tiles"]) == (8, 8, "exact", 1)
        assert (record["num_latents"], record["steps"], record["seed"]) == (2, 3, 0)
        before, after = (
            np.asarray(Image.open(p), np.float64) / 255 for p in (tmp_path / record["source"], out / record["output"])
        )
        assert record["l1"] == pytest.approx(np.abs(before - after).mean(), rel=1e-4)
        assert record["psnr"] == pytest.approx(-10 * np.log10(((before - after) ** 2).mean()), rel=1e-4)
        terms = record["pixel_term"] + 2 * record["perceptual_term"] + 0.00005 * 2 * record["latent_term"]
        assert record["objective"] == pytest.approx(terms, rel=1e-4)
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.width > 500


def test_batch_size_and_order_do_not_change_the_images(
    invoke: Run, images: Path, small_model: Path, tmp_path: Path
) -> None:
    results = []
    for out, inputs, batch in (("one", ["in"], "1"), ("four", ["in"], "4"), ("back", ["in/sub", "in/c.png"], "2")):
        run = invoke("purify", *inputs, "-o", out, "--model", small_model, *QUICK, "--batch-size", batch)
        assert run.returncode == 0, run.stderr
        results.append({Path(name).name: data for name, data in written(tmp_path / out).items()})
    assert results[0] == results[1]
    assert results[2] == {name: results[0][name] for name in ("c.png", "d.png", "e.png")}


def test_a_folder_and_its_files_share_one_output_folder(invoke: Run, images: Path, small_model: Path) -> None:
    options = ("--out", "clean", "--model", small_model, "--preset", "fast", "--steps", "1", "--quiet")
    one = invoke("purify", "in/a.png", *options)
    assert one.stdout.split() == ["clean/a.png"]
    rest = invoke("purify", "in", *options)
    assert sorted(rest.stdout.split()) == ["clean/b.png", "clean/c.png", "clean/sub/d.png", "clean/sub/e.png"]
    assert invoke("purify", "in/b.png", images / "sub" / "d.png", *options).stdout == ""
    clash = invoke("purify", "in/sub/d.png", *options)  # the deepest folder is in/sub: already there as sub/d.png
    assert (clash.returncode, clash.stdout) == (0, "")
    (images.parent / "other").mkdir()
    (images / "a.png").rename(images.parent / "other" / "a.png")
    refused = invoke("purify", "other/a.png", *options)
    assert refused.returncode == 2
    assert "clean/a.png is the result of in/a.png, and other/a.png would overwrite it" in refused.stderr


def test_stdin_quiet_and_python_m_make_a_pipeline(cmap: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    run = cmap(
        "purify", "-", "--out", "clean", "--quiet", "--model", small_model, *QUICK, stdin="in/a.png\nin/sub/e.png\n"
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("warning: the results are far from their inputs")  # of the toy model
    assert run.stdout.splitlines() == ["clean/a.png", "clean/sub/e.png"]
    assert all((tmp_path / line).exists() for line in run.stdout.splitlines())


def test_json_is_one_document(invoke: Run, images: Path, small_model: Path) -> None:
    run = invoke("purify", "in", "--out", "clean", "--json", "--model", small_model, *QUICK)
    document = json.loads(run.stdout)
    assert document["schema"] == "cmap.purify/1"
    assert (document["written"], document["failed"], document["exit_code"]) == (5, 0, 0)
    assert document["settings"]["steps"] == 3
    again = json.loads(invoke("purify", "in", "--out", "clean", "--json", "--model", small_model, *QUICK).stdout)
    assert (again["written"], again["already_there"]) == (0, 5)


def test_dry_run_writes_nothing(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    run = invoke("purify", "in", "--out", "clean", "--model", small_model, "--dry-run")
    assert run.returncode == 0, run.stderr
    assert "5 patches of 8×8" in run.stderr
    assert not (tmp_path / "clean").exists()


def test_bad_images_fail_alone(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    (images / "empty.png").write_bytes(b"")
    (images / "text.png").write_text("not an image")
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:-40])
    Image.open(images / "b.png").save(images / "wrong.jpg", format="PNG")
    run = invoke("purify", "in", "--out", "clean", "--json", "--model", small_model, *QUICK)
    assert run.returncode == 3
    document = json.loads(run.stdout)
    assert {failure["source"] for failure in document["failures"]} == {"in/empty.png", "in/text.png", "in/cut.png"}
    assert run.stderr.count("error:") == 3
    for name in ("empty.png", "text.png", "cut.png"):
        assert name in run.stderr
    assert document["written"] == 6
    assert not list((tmp_path / "clean").rglob("*.tmp"))


def test_usage_errors_come_all_at_once_and_before_any_work(invoke: Run, images: Path, tmp_path: Path) -> None:
    run = invoke("purify", "nothing.png", "--out", "in/clean", "--select", "vote", "--json")
    assert run.returncode == 2
    errors = [problem["error"] for problem in json.loads(run.stdout)["errors"]]
    assert any("nothing.png" in error for error in errors)
    assert any("--select vote" in error for error in errors)
    inside = invoke("purify", "in", "--out", "in/clean")
    assert inside.returncode == 2
    assert "is in the input folder" in inside.stderr
    (images / "a.bmp").write_bytes((images / "a.png").read_bytes())
    collision = invoke("purify", "in", "--out", "clean")
    assert collision.returncode == 2
    assert "both be written" in collision.stderr
    assert invoke("purify", "in", "--out", "clean", "--steps", "none").returncode == 2
    assert invoke("purify", "in", "--out", "clean", "--model", "nonsense").returncode == 2
    assert not (tmp_path / "clean").exists()


def test_other_settings_on_the_same_output_are_refused(
    invoke: Run, images: Path, small_model: Path, tmp_path: Path
) -> None:
    assert invoke("purify", "in", "--out", "clean", "--model", small_model, *QUICK).returncode == 0
    before = written(tmp_path / "clean")
    refused = invoke("purify", "in", "--out", "clean", "--model", small_model, *QUICK, "--seed", "5")
    assert refused.returncode == 2
    assert "seed was 0 and is now 5" in refused.stderr
    assert written(tmp_path / "clean") == before
    forced = invoke("purify", "in", "--out", "clean", "--model", small_model, *QUICK, "--seed", "5", "--overwrite")
    assert forced.returncode == 0, forced.stderr
    assert written(tmp_path / "clean") != before
    assert len(manifest(tmp_path / "clean")) == 5


def test_a_killed_run_goes_on_and_ends_the_same(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    for index in range(40):
        picture = np.random.RandomState(index).randint(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(picture).save(images / f"{index:03d}.png")
    options = ("--model", str(small_model), "--preset", "fast", "--steps", "25", "--batch-size", "2")
    assert invoke("purify", "in", "--out", "whole", *options).returncode == 0
    command = ["purify", "in", "--out", "killed", *options]
    process = ForkedProcess(command, tmp_path, {**os.environ, "CMAP_DEVICE": "cpu"})
    lines = tmp_path / "killed" / "manifest.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and lines.read_text().count("\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(manifest(tmp_path / "killed"))
    assert 4 <= done < 45
    with lines.open("a") as file:
        file.write('{"source": "in/half')
    run = invoke("purify", "in", "--out", "killed", *options)
    assert run.returncode == 0, run.stderr
    assert "images are there already" in run.stderr
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    assert len(manifest(tmp_path / "killed")) == 45


def hear_signals() -> None:
    """Undo what a shell does to its background jobs: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str)
def test_signals_keep_what_is_finished(
    sent: signal.Signals, code: int, images: Path, small_model: Path, tmp_path: Path
) -> None:
    for index in range(40):
        Image.new("RGB", (8, 8), (index * 5, 0, 0)).save(images / f"{index:03d}.png")
    arguments = (
        "purify",
        "in",
        "--out",
        "clean",
        "--model",
        str(small_model),
        "--steps",
        "60",
        "--batch-size",
        "1",
        "--json",
    )
    process = ForkedProcess(
        arguments,
        tmp_path,
        {**os.environ, "CMAP_DEVICE": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        before=hear_signals,
    )
    lines = tmp_path / "clean" / "manifest.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and lines.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert "finished work is kept" in stderr
    assert json.loads(stdout)["exit_code"] == code
    assert not list((tmp_path / "clean").rglob("*.tmp"))
    assert 3 <= len(manifest(tmp_path / "clean")) < 45


def test_a_model_of_one_size_cuts_larger_images_with_a_warning_and_shrinks_none_unless_asked(
    invoke: Run, small_model: Path, tmp_path: Path
) -> None:
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 4), np.uint8), "RGBA")
    picture.save(tmp_path / "photo.png")
    run = invoke("purify", "photo.png", "--out", "tiled", "--model", small_model, *QUICK)
    assert run.returncode == 0, run.stderr
    assert "cut into" in run.stderr
    with Image.open(tmp_path / "tiled" / "photo.png") as result:
        assert result.size == (30, 20)
        np.testing.assert_array_equal(np.asarray(result)[..., 3], np.asarray(picture)[..., 3])
    run = invoke("purify", "photo.png", "--out", "small", "--model", small_model, *QUICK, "--max-tiles", "4")
    assert run.returncode == 1
    assert "30×20 needs 15 tiles of 8×8, more than 4" in run.stderr
    assert "--model auto takes it whole" in run.stderr
    run = invoke("purify", "photo.png", "--out", "resized", "--model", small_model, *QUICK, "--fit", "resize")
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "resized" / "photo.png") as result:
        assert result.size == (8, 8)


def test_lossless_pictures_keep_their_format_and_grey_ones_stay_grey(
    invoke: Run, small_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "a.tiff")
    Image.fromarray(values).save(folder / "b.jpg")
    Image.fromarray(values[..., 0]).save(folder / "grey.bmp")
    Image.fromarray(values[..., 0]).convert("LA").save(folder / "clear.png")
    run = invoke("purify", "in", "--out", "clean", "--quiet", "--model", small_model, *QUICK)
    assert run.returncode == 0, run.stderr
    results = {}
    for place in (tmp_path / "clean").iterdir():
        if place.suffix not in (".json", ".jsonl"):
            with Image.open(place) as picture:
                results[place.name] = (picture.format, picture.mode)
    assert results == {
        "a.tiff": ("TIFF", "RGB"),
        "b.png": ("PNG", "RGB"),
        "grey.bmp": ("BMP", "L"),
        "clear.png": ("PNG", "LA"),
    }
    records = [json.loads(line) for line in (tmp_path / "clean" / "manifest.jsonl").read_text().splitlines()]
    assert all(0 < record["psnr"] < 60 for record in records)
    again = invoke("purify", "in", "--out", "clean", "--json", "--model", small_model, *QUICK)
    assert json.loads(again.stdout)["already_there"] == 4


def test_arrays_in_and_out(invoke: Run, small_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "batch.npy", np.random.RandomState(0).rand(3, 3, 8, 8).astype(np.float32))
    run = invoke("purify", "batch.npy", "--out", "clean", "--format", "npy", "--quiet", "--model", small_model, *QUICK)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"clean/batch/{i:06d}.npy" for i in range(3)]
    result = np.load(tmp_path / "clean/batch/000001.npy")
    assert result.shape == (3, 8, 8)
    assert result.dtype == np.float32


def test_a_classifier_and_labels_fill_the_summary(invoke: Run, small_model: Path, tmp_path: Path) -> None:
    for name, level in (("bright", 200), ("dark", 60)):
        Image.new("RGB", (8, 8), (level, level, level)).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("file,label\nbright.png,1\ndark.png,1\n")
    options = ("--model", small_model, *QUICK, "--classifier", "tests.toys:brightness_classifier")
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = invoke(
        "purify", "bright.png", "dark.png", "--out", "clean", *options, "--labels", "labels.csv", **environment
    )
    assert run.returncode == 0, run.stderr
    assert "1 of 2 correct before purification" in run.stdout
    by_source = {record["source"]: record for record in manifest(tmp_path / "clean")}
    assert (by_source["bright.png"]["before"], by_source["dark.png"]["before"]) == ("1", "0")
    assert {"after", "vote"} <= set(by_source["dark.png"])
    unlabelled = invoke("purify", "bright.png", "--out", "other", *options, "--select", "vote", **environment)
    assert unlabelled.returncode == 0, unlabelled.stderr
    assert "another class after purification for" in unlabelled.stdout


def test_output_of_libraries_does_not_reach_stdout(cmap: Run, invoke: Run, images: Path, small_model: Path) -> None:
    options = ("--model", small_model, *QUICK, "--classifier", "tests.toys:talkative_classifier", "--json")
    run = cmap("purify", "in", "--out", "clean", *options, PYTHONPATH=f"{Path(__file__).parents[2]}:{PATH}")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["written"] == 5
    assert "loading weights" in run.stderr
    assert "from a library in C" in run.stderr
    again = invoke("purify", "in", "--out", "clean", *options)
    assert json.loads(again.stdout)["already_there"] == 5
    assert "loading weights" in again.stderr


def test_lpips_without_its_trunk_names_the_command(
    invoke: Run, images: Path, small_model: Path, tmp_path: Path
) -> None:
    options = ("--model", small_model, "--perceptual", "lpips", "--weights-dir", tmp_path / "none")
    run = invoke("purify", "in", "--out", "clean", *options)
    assert run.returncode == 2
    assert "hint: cmap download-weights lpips-vgg" in run.stderr


def test_files_of_others_are_not_overwritten(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "a.png").write_text("precious")
    options = ("--model", small_model, *QUICK)
    run = invoke("purify", "in", "--out", "clean", *options)
    assert run.returncode == 2
    assert "clean/a.png exists already" in run.stderr
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["a.png"]
    assert invoke("purify", "in", "--out", "clean", *options, "--overwrite").returncode == 0


def test_an_image_that_has_changed_is_done_again(invoke: Run, images: Path, small_model: Path, tmp_path: Path) -> None:
    options = ("purify", "in", "--out", "clean", "--model", small_model, *QUICK)
    assert invoke(*options).returncode == 0
    before = written(tmp_path / "clean")
    Image.new("RGB", (8, 8), "teal").save(images / "b.png")
    run = invoke(*options)
    assert "1 image purified" in run.stdout
    after = written(tmp_path / "clean")
    assert {name for name in before if before[name] != after[name]} == {"b.png"}
    assert len(manifest(tmp_path / "clean")) == 5


def limit_file_sizes() -> None:
    """No file may have more than 4,000 bytes; writing more is an error, not a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(
    invoke: Run, images: Path, small_model: Path, tmp_path: Path
) -> None:
    """File size is limited to what the manifest outgrows after a few records."""
    for index in range(20):
        Image.new("RGB", (8, 8), (index * 10, 0, 0)).save(images / f"{index:02d}.png")
    arguments = ("purify", "in", "--out", "clean", "--model", str(small_model), *QUICK, "--batch-size", "1")
    run = ForkedProcess(
        arguments, tmp_path, {**os.environ, "CMAP_DEVICE": "cpu"}, stderr=subprocess.PIPE, before=limit_file_sizes
    )
    (stderr,) = run.communicate(timeout=120)
    assert run.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert "cannot be written" in stderr
    kept = len(manifest_lines(tmp_path / "clean"))
    assert 1 <= kept < 25
    resumed = invoke(*arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert len(manifest(tmp_path / "clean")) == 25


def manifest_lines(out: Path) -> list[str]:
    """The complete lines of a manifest that may have been cut."""
    return [line for line in (out / "manifest.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
