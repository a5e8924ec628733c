"""Shares of a job, what they leave in a folder, and the threads of one process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from cmap_cli.errors import CmapError, SettingsMismatchError, UsageError
from cmap_cli.files import release_lock, take_lock
from cmap_cli.purify.channel import Channel, Closed
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.merge import merge_folder, merge_folders
from cmap_cli.runs.progress import Part, decisive_parts, missing, read_parts, write_part
from cmap_cli.runs.shard import LAUNCHER, WHOLE, Shard, launched_shard, parse_shard, resolve_shard
from cmap_cli.runs.team import worst_exit_code


def test_every_key_belongs_to_one_shard_of_about_the_same_size() -> None:
    keys = [f"folder/{number}.png" for number in range(3000)] + ["\udcff.png"]
    for count in (1, 2, 3, 7):
        owners = [[shard.index for shard in shards(count) if shard.owns(key)] for key in keys]
        assert all(len(each) == 1 for each in owners)
        sizes = Counter(each[0] for each in owners)
        assert min(sizes.values()) > 0.8 * len(keys) / count


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


def test_ownership_is_the_same_in_every_process() -> None:
    program = "from cmap_cli.runs.shard import Shard; print([Shard(2, 5).owns(str(n)) for n in range(50)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{[Shard(2, 5).owns(str(n)) for n in range(50)]}\n"}


def test_shards_are_parsed_from_1() -> None:
    assert parse_shard("2/4") == Shard(2, 4)
    assert parse_shard("1/1") == WHOLE
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2", "1/2/3", "", "١/2"):
        with pytest.raises(UsageError, match="is not a shard"):
            parse_shard(text)


def test_torchrun_and_shard_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launched_shard(), resolve_shard(None, True), resolve_shard("1/2", False)) == (None, WHOLE, Shard(1, 2))
    with pytest.raises(UsageError, match="--overwrite"):
        resolve_shard("1/2", True)
    for name, value in zip(LAUNCHER, ("2", "3", "localhost", "1"), strict=True):
        assert launched_shard() is None
        monkeypatch.setenv(name, value)
    assert launched_shard() == resolve_shard(None, True) == Shard(3, 3)
    with pytest.raises(UsageError, match="torchrun"):
        resolve_shard("1/2", False)


def test_the_worst_exit_code_wins() -> None:
    groups = ([0, 0], [0, 3], [3, 1], [1, 2, 3], [2, 130], [2, 143, 0], [0, 77])
    assert [worst_exit_code(codes) for codes in groups] == [0, 3, 1, 2, 130, 143, 77]


def test_a_lock_is_for_one_process_and_falls_with_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    program = (
        "import sys, time; from pathlib import Path; from cmap_cli.files import take_lock\n"
        "lock = take_lock(Path(sys.argv[1])); print(lock is not None, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    with other, other.stdout:
        assert other.stdout.readline().strip() == "True"
        assert take_lock(path) is None
        other.kill()
    lock = take_lock(path)
    assert lock is not None
    release_lock(lock)
    assert list(tmp_path.iterdir()) == []


def record(name: str, seconds: int = 0) -> dict[str, object]:
    identity = {"source": name, "source_bytes": 1, "source_mtime_ns": 1}
    return {**identity, "output": name, "l1": 0.5, "psnr": 1.0, "ssim": 0.5, "seconds": seconds}


def part_of_a_run(folder: Path, shard: Shard, names: str, *, seed: int = 0, finished: bool = True) -> Path:
    """What --shard leaves behind."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"schema": "cmap.run/1", "settings": {"seed": seed}}))
    for name in names:
        (folder / name).write_text(name)
    Journal(folder, "manifest", shard).append([record(name) for name in names])
    write_part(folder, Part(shard, 4, len(names), finished))
    return folder


def outputs(folder: Path) -> list[str]:
    return [line["output"] for line in Journal(folder, "manifest").records()]


def test_one_folder_is_gathered_and_left_as_by_one_process(tmp_path: Path) -> None:
    part_of_a_run(tmp_path, Shard(2, 2), "ca")
    part_of_a_run(tmp_path, Shard(1, 2), "bd")
    Journal(tmp_path, "manifest", Shard(1, 3)).append([record("a", seconds=7)])  # of another start, done twice
    merged = merge_folder(tmp_path)
    assert (merged.kind, merged.count, merged.listed, merged.missing) == ("purify", 4, 4, ())
    assert outputs(tmp_path) == ["a", "b", "c", "d"]
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "manifest.jsonl", *"abcd"}
    again = merge_folder(tmp_path)
    assert (again.count, again.listed, again.missing) == (4, None, ())


def test_missing_images_are_named_and_included_by_a_later_merge(tmp_path: Path) -> None:
    part_of_a_run(tmp_path, Shard(1, 3), "ab")
    part_of_a_run(tmp_path, Shard(2, 3), "c", finished=False)
    merged = merge_folder(tmp_path)
    assert merged.missing == ("shard 2/3 is not finished", "shard 3/3 is missing", "1 of 4 images are missing")
    assert outputs(tmp_path) == ["a", "b", "c"]
    part_of_a_run(tmp_path, Shard(2, 3), "")
    part_of_a_run(tmp_path, Shard(3, 3), "d")
    (tmp_path / "a").unlink()
    assert merge_folder(tmp_path).missing == ("1 files that are recorded are not there", "1 of 4 images are missing")
    (tmp_path / "a").touch()
    Journal(tmp_path, "manifest").append([record("a")])
    assert merge_folder(tmp_path).missing == ()
    assert outputs(tmp_path) == ["a", "b", "c", "d"]


def test_a_shard_at_work_is_waited_for(tmp_path: Path) -> None:
    part_of_a_run(tmp_path, Shard(1, 2), "ab")
    part_of_a_run(tmp_path, Shard(2, 2), "cd")
    working = Journal(tmp_path, "manifest", Shard(2, 2))
    working.open()
    assert merge_folder(tmp_path).missing == ("manifest-2-of-2.jsonl is still being written",)
    working.close()
    assert merge_folder(tmp_path).missing == ()
    alone = Journal(tmp_path, "manifest")
    alone.open()
    with pytest.raises(CmapError, match="another process is writing"):
        merge_folder(tmp_path)
    alone.close()


def test_a_run_is_judged_by_the_number_of_shards_that_got_farthest() -> None:
    first = [Part(Shard(1, 3), 4, 2, finished=True), Part(Shard(2, 3), 4, 2)]
    then = [Part(shard, 4, 2, finished=True) for shard in shards(2)]
    assert decisive_parts([*first, *then]) == then
    assert missing([*first, *then]) == []
    assert missing([*first, then[1]]) == ["shard 1/2 is missing"]


def test_folders_of_one_run_become_one(tmp_path: Path) -> None:
    parts = [
        part_of_a_run(tmp_path / "1", Shard(1, 2), "bd"),
        part_of_a_run(tmp_path / "2", Shard(2, 2), "ca"),
        part_of_a_run(tmp_path / "again", Shard(2, 2), "c", finished=False),
    ]
    out = tmp_path / "whole"
    assert merge_folders(parts[:1], out).missing == ("shard 2/2 is missing", "2 of 4 images are missing")
    merged = merge_folders(parts, out)
    assert (merged.count, merged.missing) == (4, ())
    assert {path.name: path.read_text() for path in out.iterdir() if len(path.name) == 1} == {n: n for n in "abcd"}
    assert outputs(out) == ["a", "b", "c", "d"]
    assert read_parts(out) == []
    assert len(read_parts(parts[0])) == 1  # the parts are left as they were
    stranger = part_of_a_run(tmp_path / "3", Shard(1, 2), "b", seed=5)
    with pytest.raises(SettingsMismatchError, match="seed is 0 and 5"):
        merge_folders([parts[0], stranger], tmp_path / "new")
    with pytest.raises(SettingsMismatchError, match="seed was 0 and is now 5"):
        merge_folders([stranger], out)
    assert merge_folders([stranger], out, overwrite=True).missing[0] == "shard 2/2 is missing"
    assert outputs(out) == ["b"]


def test_a_merge_overwrites_nothing_and_reads_nothing_outside(tmp_path: Path) -> None:
    part = part_of_a_run(tmp_path / "1", Shard(1, 2), "ab")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b").write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        merge_folders([part], tmp_path / "out")
    (tmp_path / "secret").touch()
    Journal(part, "manifest", Shard(1, 2)).append([record("../secret")])
    with pytest.raises(CmapError, match="not in its folder"):
        merge_folders([part], tmp_path / "new")
    with pytest.raises(UsageError, match="holds neither"):
        merge_folder(tmp_path)


def test_a_channel_bounds_what_is_inside_and_ends() -> None:
    channel = Channel[int](capacity=3)
    inside: list[int] = []

    def fill() -> None:
        for number in range(20):
            channel.put(number, weight=2)
            inside.append(channel.weight)
        channel.close()

    thread = threading.Thread(target=fill)
    thread.start()
    assert list(channel) == list(range(20))
    thread.join()
    assert max(inside) <= 4
    with pytest.raises(Closed):
        channel.put(1)


def test_a_thread_that_waits_for_room_learns_that_nobody_takes_more() -> None:
    channel = Channel[int](capacity=1)
    channel.put(0)
    ended = threading.Event()

    def fill() -> None:
        with pytest.raises(Closed):
            channel.put(1)
        ended.set()

    thread = threading.Thread(target=fill)
    thread.start()
    channel.close(drop=True)
    thread.join(10)
    assert ended.is_set()
    assert list(channel) == []
