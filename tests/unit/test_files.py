"""Files are written whole or not at all, and nothing stays behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cmap_cli.errors import CmapError, OutOfSpaceError
from cmap_cli.files import append_text, copy_file, probe, sweep_temporaries, write_bytes, write_text, write_with
from cmap_cli.runs.journal import Journal
from cmap_cli.runs.shard import Shard


def left_over(folder: Path, age: float) -> Path:
    path = folder / ".cmap-0123.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.txt"
    write_text(path, ["one ", "two"])
    assert path.read_text() == "one two"
    write_bytes(path, b"three")
    copy_file(path, tmp_path / "y.txt")
    append_text(tmp_path / "y.txt", " four")
    assert (tmp_path / "y.txt").read_text() == "three four"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["new", "x.txt", "y.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_a_failed_write_keeps_the_old_file(number: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(CmapError, match="x") as caught:
        write_with(path, fail)
    assert isinstance(caught.value, OutOfSpaceError) == (number != errno.EACCES)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_files_have_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_with(tmp_path / "x.safetensors", lambda path: save_file({"x": torch.zeros(1)}, path))
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_old_temporary_files_are_removed_and_recent_ones_are_kept(tmp_path: Path) -> None:
    old, young = left_over(tmp_path / "sub", 90), left_over(tmp_path, 1)
    assert sweep_temporaries(tmp_path) == 1
    assert not old.exists()
    assert young.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked")
def test_temporary_files_are_removed_at_once_if_their_process_is_dead_and_never_if_it_lives(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cmap_cli.files import write_with\n"
        "def write(temporary):\n"
        "    temporary.write_bytes(b'half')\n"
        "    (temporary.parent / '.of a library').write_bytes(b'half')\n"
        "    print(flush=True); time.sleep(60)\n"
        "write_with(Path(sys.argv[1]), write)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "sub" / "x")], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    (temporary,) = (tmp_path / "sub").iterdir()
    os.utime(temporary, (time.time() - 90,) * 2)
    assert sweep_temporaries(tmp_path) == 0
    assert len(list(temporary.iterdir())) == 2
    process.kill()
    process.communicate()
    os.utime(temporary, (time.time() - 2,) * 2)
    assert sweep_temporaries(tmp_path) == 1
    assert not list((tmp_path / "sub").iterdir())


def test_where_folders_cannot_be_locked_their_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmap_cli.files.lock_folder", lambda folder: None)
    temporary = tmp_path / ".cmap-0123.tmp"
    temporary.mkdir()
    (temporary / "x").write_bytes(b"half")
    os.utime(temporary, (time.time() - 90,) * 2)
    assert sweep_temporaries(tmp_path) == 0
    os.utime(temporary / "x", (time.time() - 90,) * 2)
    assert sweep_temporaries(tmp_path) == 1
    write_text(tmp_path / "y", "whole")
    probe(tmp_path, Path("new/folder"))
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_a_run_sweeps_its_folder_unless_another_process_works_there(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from cmap_cli.files import take_lock\n"
        "lock = take_lock(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
    )
    other = Journal(tmp_path, "manifest", Shard(2, 2)).path
    process = subprocess.Popen([sys.executable, "-c", program, str(other)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    old = left_over(tmp_path, 90)
    journal = Journal(tmp_path, "manifest", Shard(1, 2))
    journal.open()
    journal.close()
    assert old.exists()
    process.kill()
    process.communicate()
    journal.open()
    journal.close()
    assert not old.exists()
    assert not list(tmp_path.iterdir())
