"""Which images are found, where their results go, and what is refused before work starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from safetensors.numpy import save_file

from cmap_cli.data.inputs import Discovery, Source, discover, image_size
from cmap_cli.data.outputs import FORMATS, check_collisions, check_output_folder, output_path
from cmap_cli.errors import ImageError, UsageError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(path: str, size: tuple[int, int] = (3, 2)) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)
    return file


def places(found: Discovery) -> list[str]:
    return [str(source.relative) for source in found.sources]


def test_a_folder_is_listed_by_name_without_hidden_files_and_others_are_counted() -> None:
    for name in ("in/b.png", "in/a.JPG", "in/sub/deep/c.webp", "in/a-sub/d.gif", "in/.hidden/e.png", "in/.f.png"):
        picture(name)
    Path("in/notes.txt").write_text("hello")
    Path("in/sub/README").write_text("hello")
    found = discover(["in"])
    assert places(found) == ["a.JPG", "b.png", "a-sub/d.gif", "sub/deep/c.webp"]
    assert [str(source.path) for source in found.sources[:2]] == ["in/a.JPG", "in/b.png"]
    assert (found.skipped, found.failures, found.folders) == (2, [], [Path("in")])


def test_links_are_followed_but_not_in_circles() -> None:
    picture("in/sub/a.png")
    picture("elsewhere/b.png")
    Path("in/sub/up").symlink_to("..")
    Path("in/itself").symlink_to("itself")
    Path("in/other").symlink_to("../elsewhere")
    assert places(discover(["in"])) == ["other/b.png", "sub/a.png"]
    assert places(discover(["in/**/*.png"])) == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["photos"], ["x.png", "sub/y.png"]),
        (["photos/x.png"], ["x.png"]),
        (["photos/sub/y.png"], ["y.png"]),
        (["photos/x.png", "photos/sub/y.png"], ["x.png", "sub/y.png"]),
        (["photos/**/*.png"], ["sub/y.png", "x.png"]),
        (["photos/x.png", "photos/sub/*"], ["x.png", "sub/y.png"]),
        (["./photos/../photos/x.png", "other/x.png"], ["photos/x.png", "other/x.png"]),
        (["photos", "photos/x.png"], ["x.png", "sub/y.png"]),
        (["photos", "other/z.png"], ["x.png", "sub/y.png", "z.png"]),
    ],
)
def test_a_file_has_the_same_place_whether_it_or_its_folder_is_named(
    arguments: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in ("photos/x.png", "photos/sub/y.png", "other/x.png", "other/z.png"):
        picture(name)
    assert places(discover(arguments)) == expected
    assert places(discover([f"{tmp_path}/{argument}" for argument in arguments])) == expected


def test_named_files_can_be_placed_below_a_given_folder(tmp_path: Path) -> None:
    picture("here/photos/a.png")
    outside = picture("outside/b.png").resolve()
    os.chdir(tmp_path / "here")
    found = discover(["photos/a.png", "./photos/../photos/a.png", str(outside)], below=Path.cwd())
    assert places(found) == ["photos/a.png", "photos/a.png", "b.png"]


def test_the_same_file_twice_is_done_once() -> None:
    picture("a.png")
    assert places(discover(["a.png", "./a.png", "a.p*"])) == ["a.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.png", ["a.png"]),
        ("in/**/*.png", ["a.png", "sub/b.png"]),
        ("in/**", ["a.png", "sub/b.png"]),
        ("in/?.png", ["a.png"]),
        ("i[n]/*", ["a.png", "b.png"]),  # the folder in/sub is one of the matches
        ("in/../in/a.*", ["a.png"]),
        ("in/.hidden/*", ["c.png"]),
    ],
)
def test_patterns(pattern: str, expected: list[str], tmp_path: Path) -> None:
    for name in ("in/a.png", "in/sub/b.png", "in/.hidden/c.png"):
        picture(name)
    Path("in/empty").mkdir()
    assert places(discover([pattern])) == expected
    assert places(discover([f"{tmp_path}/{pattern}"])) == expected


def test_a_name_that_exists_is_not_a_pattern() -> None:
    picture("[1].png")
    picture("1.png")
    assert places(discover(["[1].png"])) == ["[1].png"]


def test_a_pattern_takes_a_strange_suffix_only_if_it_names_it() -> None:
    for name in ("x/a.png", "x/b.png"):
        picture(name)
    Path("x/b.png").rename("x/b.image")
    assert (places(discover(["x/*"])), discover(["x/*"]).skipped) == (["a.png"], 1)
    assert places(discover(["x/*.image"])) == ["b.image"]


@pytest.mark.parametrize(
    "lines",
    [
        ["a.png\n", "\n", "in/b.png\n", "  \n", "gone.png"],
        ["a.png\r\n", "in/b.png\r\n", "gone.png\r\n"],
        ["a.png", "in/b.png", "gone.png"],
        ["a.png\0in/b.png\0gone.png\0"],
    ],
)
def test_standard_input_names_one_path_a_line_and_a_missing_one_stops_nothing(lines: list[str]) -> None:
    picture("a.png")
    picture("in/b.png")
    found = discover(["-"], iter(lines))
    assert places(found) == ["a.png", "in/b.png"]
    assert [failure.path for failure in found.failures] == ["gone.png"]
    assert isinstance(found.failures[0].error, ImageError)
    assert "gone.png" in str(found.failures[0].error)


def test_nul_separated_names_may_hold_line_breaks() -> None:
    picture("two\nlines.png")
    assert places(discover(["-"], ["two\n", "lines.png\0"])) == ["two\nlines.png"]


def test_standard_input_that_is_not_text() -> None:
    def binary() -> Iterator[str]:
        yield b"\x89PNG".decode()

    with pytest.raises(UsageError, match="standard input is not a list of paths"):
        discover(["-"], binary())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("gone.png", "'gone.png' cannot be found"),
        ("", "'' cannot be found"),
        ("x" * 5000, "cannot be found"),
        ("nul\0byte", "cannot be found"),
        ("empty", "the folder 'empty' holds no image"),
        ("text", "the folder 'text' holds no image"),
        ("*.webp", r"the pattern '\*.webp' matches no image"),
        ("-", "standard input names no image"),
        ("many.npz", "which array of many.npz .*a, b"),
        ("many.npz:c", "no array 'c'; it holds a, b, y"),
        ("gone.npz:c", "cannot be found"),
    ],
)
def test_wrong_arguments_are_refused_with_a_hint(argument: str, message: str) -> None:
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/a.txt").write_text("hello")
    np.savez("many.npz", a=np.zeros((2, 4, 4, 3)), b=np.zeros((2, 4, 4, 3)), y=np.zeros(2))
    with pytest.raises(UsageError, match=message) as caught:
        discover([argument])
    assert caught.value.hint
    if argument == "many.npz":
        assert "many.npz:a" in caught.value.hint


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(UsageError, match=r"'a.png' cannot be found; 'b.png' cannot be found"):
        discover(["a.png", "b.png"])


def test_a_named_file_is_tried_whatever_its_suffix() -> None:
    Path("notes.txt").write_text("hello")
    assert places(discover(["notes.txt"])) == ["notes.txt"]


@pytest.mark.parametrize(
    ("shape", "count", "size"),
    [
        ((5, 7), None, (7, 5)),
        ((5, 7, 3), None, (7, 5)),
        ((3, 5, 7), None, (7, 5)),
        ((3, 5, 3), None, (5, 3)),  # both readings: channels last
        ((4, 5, 7, 1), 4, (7, 5)),
        ((6, 3, 5, 7), 6, (7, 5)),
        ((6, 5, 7), 6, (7, 5)),
        ((3, 3, 5, 3), 3, (5, 3)),  # both readings: channels last
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_shapes_of_arrays(kind: str, shape: tuple[int, ...], count: int | None, size: tuple[int, int]) -> None:
    save_array(f"in/x.{kind}", np.zeros(shape, np.uint8), alone=len(shape) == 2)
    found = discover(["in"])
    expected = [f"x.{kind}"] if count is None else [f"x/{i:06d}" for i in range(count)]
    assert places(found) == expected
    assert [source.index for source in found.sources] == ([None] if count is None else list(range(count)))
    assert {image_size(source) for source in found.sources} == {size}
    assert {source.array_key for source in found.sources} == {None if kind == "npy" else "images"}


def save_array(path: str, images: np.ndarray, *, alone: bool = False) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    arrays = {"images": images} | ({} if alone else {"labels": np.arange(9), "scores": np.zeros((9, 10))})
    if path.endswith(".npy"):
        np.save(path, images)
    elif path.endswith(".npz"):
        np.savez_compressed(path, **arrays)
    else:
        save_file(arrays, path)


def test_a_key_chooses_an_array() -> None:
    np.savez("many.npz", **{"a": np.zeros((2, 4, 4, 3)), "b:c": np.zeros((3, 5, 5, 3))})
    found = discover(["many.npz:b:c"])
    assert places(found) == ["many/000000", "many/000001", "many/000002"]
    assert str(found.sources[2]) == "many.npz:b:c[2]"


def test_grey_batches_are_found_among_labels_and_masks_are_not_taken_for_images() -> None:
    np.savez("mnist.npz", x=np.zeros((5, 8, 8)), y=np.zeros(5))
    np.savez("masked.npz", image=np.zeros((5, 8, 8, 3)), mask=np.zeros((5, 8, 8)))
    found = discover(["mnist.npz", "masked.npz"])
    assert [source.array_key for source in found.sources] == ["x"] * 5 + ["image"] * 5


def test_arrays_that_are_not_images_fail_alone(tmp_path: Path) -> None:
    picture("in/good.png")
    np.save("in/labels.npy", np.arange(10))
    np.save("in/none.npy", np.zeros((0, 4, 4, 3)))
    np.save("in/objects.npy", np.array([{}]), allow_pickle=True)
    np.savez("in/two.npz", a=np.zeros((2, 4, 4, 3)), b=np.zeros((2, 4, 4, 3)))
    np.savez("in/nothing.npz")
    whole = tmp_path / "in/cut.npy"
    np.save(whole, np.zeros((9, 4, 4, 3)))
    whole.write_bytes(whole.read_bytes()[:300])
    save_array("in/cut.safetensors", np.zeros((9, 4, 4, 3)))
    damaged = Path("in/cut.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    Path("in/fake.npz").write_bytes(b"PK\x03\x04 and no more")
    Path("in/empty.npy").touch()
    found = discover(["in"])
    assert places(found) == ["good.png"]
    expected = {"labels.npy", "none.npy", "objects.npy", "two.npz", "nothing.npz", "cut.npy"}
    expected |= {"cut.safetensors", "fake.npz", "empty.npy"}
    assert {Path(failure.path).name for failure in found.failures} == expected
    assert all(failure.path in str(failure.error) and failure.error.hint for failure in found.failures)


def test_the_number_of_images_is_read_without_the_data() -> None:
    with Path("huge.npy").open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2_000, 2_000, 2_000, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + 2_000 * 2_000 * 2_000 * 3)  # a hole of 24 GB
    assert len(discover(["huge.npy"]).sources) == 2_000


def test_sizes_are_upright_and_read_from_the_header() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save("turned.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save("turned.png", exif=exif)
    Image.new("RGB", (30, 20)).save("plain.png")
    whole = Path("plain.png").read_bytes()
    Path("header.png").write_bytes(whole[:45])
    Path("bad.png").write_text("hello")
    sizes = [image_size(discover([n]).sources[0]) for n in ("turned.jpg", "turned.png", "plain.png", "header.png")]
    assert sizes == [(20, 30), (20, 30), (30, 20), (30, 20)]
    with pytest.raises(ImageError, match=r"bad.png is not an image"):
        image_size(discover(["bad.png"]).sources[0])


def test_the_size_of_a_png_takes_no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("x.png")
    loads: list[object] = []
    monkeypatch.setattr(PngImageFile, "load", loads.append)
    assert image_size(discover(["x.png"]).sources[0]) == (3, 2)
    assert loads == []


def test_a_folder_that_cannot_be_listed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    picture("in/a.png")
    picture("in/locked/b.png")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(["in"])
    assert places(found) == ["a.png"]
    assert "permission denied" in str(found.failures[0].error)


def test_output_paths() -> None:
    def place(relative: str, index: int | None = None) -> str:
        return str(output_path(Source(Path("x"), index, None, PurePosixPath(relative)), ".webp"))

    assert place("a/b.JPG") == "a/b.webp"
    assert place("a/holiday.2024") == "a/holiday.2024.webp"
    assert place("a/b") == "a/b.webp"
    assert place("a.b.png") == "a.b.webp"
    assert place("data.v1/000003", 3) == "data.v1/000003.webp"
    assert FORMATS["jpeg"] == ".jpg"
    assert FORMATS["safetensors"] == ".safetensors"


def test_two_results_of_one_name_are_refused() -> None:
    picture("in/a.png")
    picture("in/a.jpg")
    picture("in/b.png")
    sources = discover(["in"]).sources
    with pytest.raises(UsageError, match=r"in/a.jpg and in/a.png would both be written to out/a.png"):
        check_collisions(sources, ".png", Path("out"))
    check_collisions(sources[1:], ".png", Path("out"))


def test_results_that_would_overwrite_an_input_are_refused() -> None:
    picture("in/a.png")
    Path("link").symlink_to("in")
    sources = discover(["in"]).sources
    with pytest.raises(UsageError, match=r"link/a.png would overwrite"):
        check_collisions(sources, ".png", Path("link"))
    check_collisions(sources, ".webp", Path("link"))
    check_collisions(sources, ".png", Path("out"))


@pytest.mark.parametrize("out", ["in", "in/out", "./in/../in/deep/out", "link/out"])
def test_output_in_an_input_folder_is_refused(out: str) -> None:
    picture("in/a.png")
    Path("link").symlink_to("in")
    with pytest.raises(UsageError, match="is in the input folder in"):
        check_output_folder(discover(["in"]).folders, Path(out))
    check_output_folder(discover(["in/a.png"]).folders, Path(out))


def test_output_folders_are_probed_and_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("old").mkdir()
    Path("file").touch()
    check_output_folder([], Path("old"))
    check_output_folder([], Path("new/deep"))
    assert sorted(Path().iterdir()) == [Path("file"), Path("old")]
    assert list(Path("old").iterdir()) == []
    for out in ("file", "file/deep"):
        with pytest.raises(UsageError, match=f"--out {out} "):
            check_output_folder([], Path(out))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    Path("circle").symlink_to("circle")
    with pytest.raises(UsageError, match="--out circle cannot be written to"):
        check_output_folder([], Path("circle"))
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(UsageError, match="--out new cannot be written to: Permission denied"):
        check_output_folder([], Path("new"))
    assert not Path("new").exists()
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(UsageError, match="--out new cannot be written to: Permission denied"):
        check_output_folder([], Path("new"))


def test_large_folders_are_quick_and_nothing_imports_torch() -> None:
    Path("in").mkdir()
    for i in range(2000):
        Path(f"in/{i}.png").touch()
    program = (
        "import sys, time; from cmap_cli.data.inputs import discover; import cmap_cli.data.outputs; "
        "start = time.process_time(); n = len(discover(['in']).sources); "
        "print(n, 'torch' in sys.modules, time.process_time() - start < 1)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    assert run.stdout.split() == ["2000", "False", "True"]
