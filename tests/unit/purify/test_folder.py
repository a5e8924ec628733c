"""The output folder, what its records add up to, and the sheets."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import msgspec
import pytest
import torch
from PIL import Image

from cmap_cli.data.inputs import Source
from cmap_cli.data.sheets import CELL, SheetRow, write_comparison, write_samples
from cmap_cli.errors import CmapError, SettingsMismatchError, UsageError
from cmap_cli.purify.documents import ImageRecord
from cmap_cli.purify.folder import ResultFolder, source_origin
from cmap_cli.purify.summary import summarise
from cmap_cli.runs.shard import Shard


def record(name: str, **changes: object) -> ImageRecord:
    fields = {
        "source": name,
        "source_bytes": 1,
        "source_mtime_ns": 2,
        "output": name,
        "width": 8,
        "height": 8,
        "model": "toy",
        "method": "optimise",
        "fit": "exact",
        "tiles": 1,
        "seed": 0,
        "num_latents": 2,
        "steps": 3,
        "objective": 1.0,
        "pixel_term": 1.0,
        "perceptual_term": 1.0,
        "latent_term": 1.0,
        "l1": 0.1,
        "psnr": 30.0,
        "ssim": 0.9,
        "seconds": 0.1,
    }
    return msgspec.convert(fields | changes, ImageRecord)


def test_a_folder_resumes_from_whole_records_whose_images_exist(tmp_path: Path) -> None:
    first = ResultFolder(tmp_path, {"steps": 1})
    assert not first.resumes
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
        first.append(record(name))
    first.append(record("gone.png"))
    with first.manifest_path.open("a") as file:
        file.write('{"source": "cu')
    with pytest.raises(CmapError, match="another process is writing"):
        ResultFolder(tmp_path, {"steps": 1})
    first.close()
    assert not list(tmp_path.glob(".*"))
    second = ResultFolder(tmp_path, {"steps": 1})
    assert second.resumes
    assert set(second.done) == {"a.png", "b.png"}
    assert second.manifest_path.read_text().count("\n") == 2
    assert second.has(record("a.png"))
    assert not second.has(record("b.png", source_mtime_ns=3))
    second.close()
    assert ResultFolder(tmp_path, {"steps": 2}, overwrite=True).done == {}


def test_images_that_have_changed_are_forgotten_at_once(tmp_path: Path) -> None:
    sources = []
    with ResultFolder(tmp_path / "out", {"steps": 1}) as results:
        for name in ("a.png", "b.png", "c.png"):
            (tmp_path / name).write_text("1")
            (tmp_path / "out" / name).touch()
            sources.append(Source(tmp_path / name, None, None, PurePosixPath(name)))
            results.append(record(name, **msgspec.structs.asdict(source_origin(sources[-1]))))
    (tmp_path / "b.png").write_text("22")
    (tmp_path / "c.png").unlink()
    with ResultFolder(tmp_path / "out", {"steps": 1}) as results:
        results.forget_changed(sources)
        assert [str(source) in results.done for source in sources] == [True, False, True]
        assert [entry.output for entry in results.records()] == ["a.png", "c.png"]


def test_a_result_is_never_replaced_by_that_of_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "other", "out"):
        Path(folder).mkdir()
    Path("out/x.png").touch()
    with ResultFolder(Path("out"), {"steps": 1}) as results:
        results.append(record("photos/x.jpg", output="x.png"))
    same = Source(tmp_path / "photos/x.jpg", None, None, PurePosixPath("x.jpg"))
    other = Source(Path("other/x.jpg"), None, None, PurePosixPath("x.jpg"))
    with ResultFolder(Path("out"), {"steps": 1}) as results:
        results.claim_places([Source(Path("photos/x.jpg"), None, None, PurePosixPath("x.jpg")), same], ".png")
        assert results.done[str(same)] == (1, 2)
        with pytest.raises(UsageError, match=r"out/x.png is the result of photos/x.jpg, and other/x.jpg would"):
            results.claim_places([other], ".png")


def test_images_of_another_shard_are_not_done_again_and_its_file_is_not_changed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    with ResultFolder(tmp_path, {"steps": 1}, shard=Shard(1, 2)) as first:
        first.append(record("a.png"))
        first.append(record("lost.png"))
        with first.manifest_path.open("a") as file:
            file.write('{"source": "cu')
        before = first.manifest_path.read_bytes()
        with ResultFolder(tmp_path, {"steps": 1}, shard=Shard(2, 2)) as second:
            assert set(second.done) == {"a.png"}
            second.append(record("b.png"))
        with pytest.raises(CmapError, match="another process is writing"):
            ResultFolder(tmp_path, {"steps": 1}, overwrite=True)
        assert first.manifest_path.read_bytes() == before
    with ResultFolder(tmp_path, {"steps": 1}, shard=Shard(1, 3)) as third:
        assert set(third.done) == {"a.png", "b.png"}
        with pytest.raises(SettingsMismatchError):
            ResultFolder(tmp_path, {"steps": 2}, shard=Shard(2, 3))
    with ResultFolder(tmp_path, {"steps": 2}, overwrite=True) as fresh:
        assert fresh.done == {}
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "c.png", "run.json"}


def test_other_settings_and_broken_settings_are_refused(tmp_path: Path) -> None:
    ResultFolder(tmp_path, {"steps": 1, "betas": (0.9, 0.99)})
    ResultFolder(tmp_path, {"steps": 1, "betas": (0.9, 0.99)})
    with pytest.raises(SettingsMismatchError, match=r"betas was \[0\.9, 0\.99\] and is now \[0\.5, 0\.99\]"):
        ResultFolder(tmp_path, {"steps": 1, "betas": (0.5, 0.99)})
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SettingsMismatchError, match="is damaged"):
        ResultFolder(tmp_path, {"steps": 1})


def test_a_damaged_manifest_is_refused_and_a_cut_last_line_is_not(tmp_path: Path) -> None:
    with ResultFolder(tmp_path, {"steps": 1}) as results:
        (tmp_path / "a.png").touch()
        results.append(record("a.png"))
    whole = results.manifest_path.read_text()
    for damaged, message in (
        ("{broken\n" + whole, "line 1 of .*manifest.jsonl is damaged"),
        (whole + "[1]\n", "line 2 of .*manifest.jsonl is of another program"),
        (
            '{"source": "a.png"}\n' + whole,
            "line 1 of .*Object missing required field",
        ),
        (whole.replace('"tiles": 1', '"tiles": "one"'), "line 1 of .*manifest.jsonl is of another program.*tiles"),
    ):
        results.manifest_path.write_text(damaged)
        with pytest.raises(UsageError, match=message):
            ResultFolder(tmp_path, {"steps": 1})
    results.manifest_path.write_text(whole + whole[:40])
    with ResultFolder(tmp_path, {"steps": 1}) as results:
        assert set(results.done) == {"a.png"}


def test_names_that_are_not_utf_8_are_recorded(tmp_path: Path) -> None:
    with ResultFolder(tmp_path, {"steps": 1}) as results:
        results.append(record("a\udcff.png"))
        assert [entry.source for entry in results.records()] == ["a\udcff.png"]


def test_the_summary_counts(tmp_path: Path) -> None:
    labels = {(tmp_path / name).resolve(): "cat" for name in ("1", "2", "3", "4")}
    outcomes = {
        "1": ("cat", "cat", "cat"),
        "2": ("dog", "cat", "cat"),
        "3": ("cat", "dog", "cat"),
        "5": ("cat", "dog", "x"),
    }
    records = [
        record(str(tmp_path / name), before=before, after=after, vote=vote, psnr=None if name == "1" else 20.0)
        for name, (before, after, vote) in outcomes.items()
    ]
    summary = summarise(records, labels)
    assert (summary.images, summary.changed, summary.labelled) == (4, 3, 3)
    assert (summary.right_before, summary.right_after, summary.right_vote) == (2, 2, 3)
    assert (summary.regained, summary.lost) == (1, 1)
    assert summary.psnr == 20
    nothing = summarise([], labels)
    assert (nothing.images, nothing.l1, nothing.changed, nothing.right_before) == (0, None, None, None)


def test_a_comparison_shows_input_result_and_amplified_difference(tmp_path: Path) -> None:
    before, after = torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 0.52)
    write_comparison(tmp_path / "sheet.png", [SheetRow(before, after, "näme -> " + "x" * 200)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        levels = {colour[0] for count, colour in sheet.getcolors(1 << 16) or [] if count >= CELL * CELL}
    assert {128, 133} <= levels
    assert any(abs(level - 255 * 0.7) <= 1 for level in levels)


def test_photographs_are_shown_in_their_own_size_up_to_a_limit(tmp_path: Path) -> None:
    for side, cell in ((200, 200), (500, 224)):
        noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
        rows = [SheetRow(noise, noise, "photograph")] * 2
        write_comparison(tmp_path / "sheet.png", rows)
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert 6 * cell < sheet.width < 6 * cell + 100
            assert cell < sheet.height < cell + 100


def test_samples_are_a_grid_also_of_grey_images(tmp_path: Path) -> None:
    write_samples(tmp_path / "grid.png", torch.rand(10, 1, 8, 8))
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > sheet.height > CELL


def test_run_json_is_versioned(tmp_path: Path) -> None:
    ResultFolder(tmp_path, {"steps": 1})
    assert json.loads((tmp_path / "run.json").read_text()) == {"schema": "cmap.run/1", "settings": {"steps": 1}}
