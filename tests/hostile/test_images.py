"""Hostile image files: each is refused in one sentence, good images beside them are purified, memory stays bounded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cmap_cli.data.images import read_image
from cmap_cli.data.inputs import discover, image_size
from cmap_cli.errors import ImageError
from tests.conftest import Run
from tests.hostile.corpus import corpus, npy, npz, png, write_corpus, write_good

PEAK = 1_500_000
"""kB of memory that a run over the corpus may need, torch included."""


@pytest.mark.parametrize("name", list(corpus()))
def test_every_file_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(corpus()[name])
    found = discover([str(tmp_path)])
    errors: list[ImageError] = [failure.error for failure in found.failures]
    for source in found.sources:
        with pytest.raises(ImageError) as caught:
            image_size(source)
            read_image(source)
        errors.append(caught.value)
    assert errors
    for error in errors:
        assert name in error.message
        assert "\n" not in error.message
        assert error.hint


def test_items_of_a_compressed_array_are_read_one_by_one(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "c.npz", x=values)
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(values))
    for name in ("c.npz", "f.npz"):
        sources = discover([str(tmp_path / name)]).sources
        for index in (0, 3, 1, 4, 4):
            pixels = read_image(sources[index]).pixels
            assert np.array_equal((pixels.movedim(0, -1) * 255).round().numpy(), values[index])


def test_an_array_that_changes_behind_its_header_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(npz({"x.npy": npy("(2, 8, 8, 3)", content=bytes(384))}))
    sources = discover([str(path)]).sources
    path.write_bytes(npz({"x.npy": npy("(1, 8, 8, 3)", content=bytes(192))}))
    with pytest.raises(ImageError, match="changed"):
        read_image(sources[1])


def test_an_image_that_needs_too_many_tiles_is_refused_by_its_header(
    invoke: Run, tmp_path: Path, small_model: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(7000, 7000))
    run = invoke("purify", "a.png", "--out", "out", "--model", small_model, "--steps", "1")
    assert run.returncode == 1
    assert "7000×7000 needs 1361889 tiles of 8×8, more than 64" in run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory in /proc")
def test_a_run_over_the_corpus_purifies_what_is_good_in_bounded_memory(tmp_path: Path, small_model: Path) -> None:
    bad, good = write_corpus(tmp_path / "in"), write_good(tmp_path / "in")
    program = (  # not ru_maxrss, which begins with the peak of the process that starts this one
        "import re, sys\n"
        "from pathlib import Path\n"
        "from cmap_cli.cli.app import main\n"
        "try: main()\n"
        "finally:\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    print('PEAK', re.search(r'VmHWM:\\s+(\\d+)', status)[1], file=sys.stderr)\n"
    )
    options = ["--model", str(small_model), "--steps", "1", "--num-latents", "1", "--quiet"]
    run = subprocess.run(
        [sys.executable, "-c", program, "purify", "in", "--out", "out", *options],
        cwd=tmp_path,
        env={**os.environ, "CMAP_DEVICE": "cpu", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stdout.splitlines()) == len(good) + 2
    assert run.stderr.count("error:") == len(bad)
    for name in bad:
        assert f"in/{name}" in run.stderr, name
    peak = int(run.stderr.split("PEAK")[1])
    assert peak < PEAK, peak
