"""Data sets: what each name means, in which order, with which labels, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms
from torchvision.datasets import ImageFolder

import cmap_cli.data.dataset
from cmap_cli.data.catalogue import Dataset, draw, load_dataset, match_classes
from cmap_cli.data.dataset import resize_and_crop
from cmap_cli.data.wordnet import imagenet_identifiers
from cmap_cli.errors import ImageError, UsageError, WeightsError
from cmap_cli.models.weights.cache import CONVERTER_VERSION, cached_path, record_in_lock, sha256
from cmap_cli.models.weights.manifest import PACKAGE, find_artefact

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WNIDS = (PACKAGE / "assets/imagenet100/classes.txt").read_text().split()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def picture(path: str, size: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def pictures(*paths: str) -> None:
    for seed, path in enumerate(paths):
        picture(path, seed=seed)


def problems(error: UsageError) -> list[str]:
    return [str(each) for each in error.problems]


def write(path: str, text: str) -> Path:
    Path(path).write_text(text)
    return Path(path)


# --- CIFAR-10


def test_the_bundled_subset_is_the_papers() -> None:
    # Computed from CIFAR-10 itself: x_test[RandomState(0).choice(10000, 500, replace=False)], and y_test.
    data = load_dataset("cifar10")
    batch = data.batch(0, 500)
    x = (batch.x * 255).round().to(torch.uint8).movedim(1, -1).contiguous().numpy()
    digests = [hashlib.sha256(each.tobytes()).hexdigest() for each in (x, batch.y.to(torch.uint8).numpy())]
    assert digests == [
        "53919d255a42dbce93e25adce3b792cd959962c3891bc0e2e20cef425c1b0841",
        "b9955ef7cd2e5df441a62b2367d40b656912ca386f0b29a4f978e06b852bd7ae",
    ]
    assert batch.x.dtype == torch.float32
    assert batch.y.dtype == torch.int64
    assert data.indices == tuple(np.random.RandomState(0).choice(10_000, 500, replace=False))
    assert (data.indices[0], batch.keys[0]) == (9394, "cifar10/test/9394")
    assert data.labels.bincount().tolist() == [55, 50, 47, 53, 42, 48, 48, 46, 52, 59]
    assert (data.name, data.split, data.classes) == ("cifar10", "subset", CIFAR10)
    assert (len(data), data.image_shape, data.resized, data.labelled) == (500, (3, 32, 32), False, True)


def test_n_takes_the_beginning_of_the_subset_whatever_the_seed() -> None:
    whole, some = load_dataset("cifar10"), load_dataset("cifar10", n=3, seed=5)
    assert some.keys == whole.keys[:3]
    assert some.labels.equal(whole.labels[:3])
    assert some.batch(2, 9).x.equal(whole.batch(2, 3).x)


def test_more_than_the_subset_needs_another_split() -> None:
    with pytest.raises(UsageError, match="the split subset of cifar10 has 500 images, not 501") as caught:
        load_dataset("cifar10", n=501)
    assert "--split test" in caught.value.hint


def test_the_whole_of_cifar10_comes_from_the_cache_in_its_own_order(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cifar10 are not in") as caught:
        load_dataset("cifar10", split="test", weights_dir=tmp_path)
    assert caught.value.hint == "cmap download-weights cifar10"
    x = torch.randint(0, 256, (7, 32, 32, 3), dtype=torch.uint8)
    artefact = find_artefact("cifar10", "dataset")
    source, path = artefact.sources[0], cached_path(artefact, tmp_path)
    tensors = {"x_train": x, "y_train": torch.arange(7), "x_test": 255 - x[:4], "y_test": torch.arange(4) + 6}
    metadata = {"source": source.url, "source_sha256": "0" * 64, "converter": str(CONVERTER_VERSION)}
    save_file({name: tensor.to(torch.uint8).contiguous() for name, tensor in tensors.items()}, path, metadata)
    record_in_lock(tmp_path, artefact, source, "0" * 64, sha256(path))
    test, train = (load_dataset("cifar10", split=split, weights_dir=tmp_path) for split in ("test", "train"))
    assert (len(test), test.indices, test.labels.tolist()) == (4, (0, 1, 2, 3), [6, 7, 8, 9])
    assert (len(train), train.keys[6], train.split) == (7, "cifar10/train/6", "train")
    assert (train.batch(5, 7).x * 255).round().movedim(1, -1).equal(x[5:].float())
    assert load_dataset("cifar10", n=2, split="test", weights_dir=tmp_path).keys == ("cifar10/test/0", "cifar10/test/1")


# --- ImageNet-100


def test_imagenet100_keeps_the_numbers_of_the_whole_list() -> None:
    pictures(f"data/val.X/{WNIDS[7]}/b.JPEG", f"data/val.X/{WNIDS[7]}/a.JPEG", f"data/val.X/{WNIDS[99]}/c.JPEG")
    data = load_dataset("imagenet100:data")
    assert data.labels.tolist() == [7, 7, 99]
    assert data.classes == tuple(WNIDS)
    assert data.keys[0] == f"imagenet100/val/{WNIDS[7]}/a.JPEG"
    assert (data.image_shape, data.resized) == ((3, 64, 64), True)
    assert load_dataset("imagenet100:data/val.X").keys == data.keys
    Path("data/val.X").rename("data/val")
    assert load_dataset("imagenet100:data", split="test").keys == data.keys
    assert load_dataset("imagenet100:data", image_size=(8, 8)).resized is False
    with pytest.raises(UsageError, match="has 3 images, not 4") as caught:
        load_dataset("imagenet100:data", n=4)
    assert "--split" not in caught.value.hint


def test_the_imagenet100_subset_is_500_drawn_as_the_paper_draws() -> None:
    for wnid in WNIDS[:2]:
        Path(f"val/{wnid}").mkdir(parents=True)
        for i in range(260):
            Path(f"val/{wnid}/{i:03d}.JPEG").touch()
    data = load_dataset("imagenet100:val")
    assert data.indices == tuple(np.random.RandomState(0).choice(520, 500, replace=False))
    assert load_dataset("imagenet100:val", n=30).indices == data.indices[:30]
    assert load_dataset("imagenet100:val", split="test", n=30).indices == data.indices[:30]
    assert load_dataset("imagenet100:val", split="test").indices == tuple(range(520))
    with pytest.raises(UsageError, match="the split subset of imagenet100:val has 500 images, not 501") as caught:
        load_dataset("imagenet100:val", n=501)
    assert "--split test" in caught.value.hint


def test_imagenet100_of_another_list_is_refused_by_name() -> None:
    pictures("val/n09999999/a.png", "val/cats/a.png", f"val/{WNIDS[0]}/a.png", "val/stray.png")
    with pytest.raises(UsageError) as caught:
        load_dataset("imagenet100:val")
    assert [text.partition(" is ")[0] for text in problems(caught.value)] == [
        "val/stray.png",
        "the folder val/cats",
        "the folder val/n09999999",
    ]
    assert "other lists called ImageNet-100" in caught.value.problems[1].hint


@pytest.mark.parametrize("name", ["imagenet100", "imagenet100:", "imagenet100:gone"])
def test_imagenet100_needs_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match=r"gone is not a folder|of ImageNet-100 is not given") as caught:
        load_dataset(name)
    assert "imagenet100:FOLDER" in caught.value.hint


def test_imagenet100_has_no_training_images() -> None:
    pictures(f"val/{WNIDS[0]}/a.png")
    with pytest.raises(UsageError, match="only validation images"):
        load_dataset("imagenet100:val", split="train")


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (64, 64), (64, 93), (97, 65), (40, 33), (20, 200), (131, 64)])
def test_imagenet100_is_resized_as_torchvision_does(size: tuple[int, int]) -> None:
    pixels = picture(f"val/{WNIDS[0]}/a.png", size)
    reference = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()])
    data = load_dataset("imagenet100:val")
    assert data.batch(0, 1).x[0].equal(reference(Image.fromarray(pixels)))
    assert data.resized is (size != (64, 64))


def test_a_size_that_is_no_square_is_covered_and_cropped() -> None:
    pixels = torch.rand(3, 40, 90)
    assert resize_and_crop(pixels, (20, 20)).shape == (3, 20, 20)
    assert resize_and_crop(pixels, (64, 16)).shape == (3, 64, 16)
    left_half_white = (torch.arange(90) < 45).float().expand(3, 40, 90)
    cropped = resize_and_crop(left_half_white, (10, 30))  # 13×30 covers it, so three rows go
    assert cropped[:, :, :14].eq(1).all()
    assert cropped[:, :, 16:].eq(0).all()


def test_a_short_side_leaves_margins_to_cut_off() -> None:
    """As ImageNet's classifiers do it: 256, of which 224."""
    picture = torch.zeros(3, 24, 36)
    picture[:, 3:21, 9:27] = 1  # the middle, which is left: of 8×12 the rows 1 to 7 and the columns 3 to 9
    cropped = resize_and_crop(picture, (6, 6), 8)
    assert torch.equal(cropped[:, 1:-1, 1:-1], torch.ones(3, 4, 4))
    assert cropped.min() > 0.6  # of the border, antialiased
    assert resize_and_crop(picture, (6, 6), 0).min() < 0.3
    assert not torch.equal(cropped, resize_and_crop(picture, (6, 6), 8, "bicubic"))
    assert resize_and_crop(cropped, (6, 6), 8) is cropped


# --- the user's own


def test_class_folders_are_numbered_as_by_torchvision() -> None:
    pictures("data/dog/1.png", "data/Cat/2.png", "data/10/b.png", "data/9/deep/c.png", "data/10/a.png")
    write("data/notes.txt", "hello")
    reference = ImageFolder("data")
    pictures("data/.hidden/d.png")
    data = load_dataset("data")
    assert list(data.classes) == reference.classes == ["10", "9", "Cat", "dog"]
    assert [(f"data/{key}", y) for key, y in zip(data.keys, data.labels.tolist(), strict=True)] == reference.samples
    assert data.batch(0, 5).x[1].equal(transforms.ToTensor()(reference[1][0]))
    assert (data.labelled, data.split, data.indices) == (True, "", (0, 1, 2, 3, 4))


def test_an_empty_class_folder_is_refused() -> None:
    pictures("data/cat/a.png")
    Path("data/dog").mkdir()
    Path("data/eel").mkdir()
    with pytest.raises(UsageError) as caught:
        load_dataset("data")
    assert problems(caught.value) == [f"the class folder data/{name} holds no image" for name in ("dog", "eel")]


def test_a_folder_of_images_has_no_labels_and_neither_have_files_and_patterns() -> None:
    pictures("data/a.png", "data/b.png", "data/sub/c.png")
    data = load_dataset("data")
    assert (data.keys, data.labels.tolist(), data.classes) == (("a.png", "b.png", "sub/c.png"), [-1, -1, -1], ())
    assert not data.labelled
    assert load_dataset("data/b.png").keys == ("data/b.png",)
    assert load_dataset("data/*.png").keys == ("data/a.png", "data/b.png")


def test_of_a_folder_a_random_subset_is_drawn_and_recorded() -> None:
    pictures(*(f"data/{name}/{i}.png" for name in "ab" for i in range(6)))
    whole = load_dataset("data")
    data = load_dataset("data", n=5, seed=3)
    assert data.indices == tuple(np.random.RandomState(3).choice(12, 5, replace=False))
    assert data.keys == tuple(whole.keys[i] for i in data.indices)
    assert data.labels.tolist() == [whole.labels[i] for i in data.indices]
    assert data.batch(4, 5).x[0].equal(whole.batch(data.indices[4], 12).x[0])
    assert load_dataset("data", n=12, seed=3).indices == tuple(range(12))
    assert set(load_dataset("data", n=5, seed=4).indices) != set(data.indices)
    with pytest.raises(UsageError, match="data has 12 images, not 13"):
        draw(whole, 13)
    with pytest.raises(UsageError, match="data has 12 images, not 13"):
        load_dataset("data", n=13)


def test_a_csv_file_with_numbers_or_names() -> None:
    pictures("data/a.png", "data/b.png", "c.png")
    write("data/numbers.csv", "\ufefflabel,file\n7,b.png\n0,a.png\n07,../c.png\n")
    numbers = load_dataset("data/numbers.csv")
    assert (numbers.keys, numbers.labels.tolist(), numbers.classes) == (("b.png", "a.png", "../c.png"), [7, 0, 7], ())
    assert numbers.batch(0, 1).x.equal(load_dataset("data/b.png").batch(0, 1).x)
    write("names.csv", "file,label,more\ndata/a.png,truck,1\ndata/b.png, cat ,2\n")
    names = load_dataset("names.csv", n=1)
    assert (names.keys, names.labels.tolist(), names.classes) == (("data/a.png",), [1], ("cat", "truck"))


def test_all_mistakes_of_a_csv_file_are_said_at_once() -> None:
    pictures("a.png", "b.png")
    write("x.csv", "file,label\na.png,3\n./a.png,3\ngone.png,cat\nb.png,\n,5\nb.png,-2\n")
    with pytest.raises(UsageError) as caught:
        load_dataset("x.csv", n=0)
    assert problems(caught.value) == [
        "--n 0 is no number of images",
        "x.csv, line 3 names ./a.png again, after line 2",
        "x.csv, line 4 names gone.png, which is not a file",
        "x.csv, line 5 has no label",
        "x.csv, line 6 has no file",
        "x.csv mixes labels: the number 3 (line 2) and the name cat (line 4)",
        "x.csv, line 7 has the label -2",
    ]
    assert all(each.hint for each in caught.value.problems[2:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column file and no column label"),
        (b"file,class\na.png,3\n", "x.csv has no column label"),
        (b"file,label\n", "x.csv names no image"),
        (b"file,label\na.png\n", "x.csv, line 2 has no label"),
        (b"file,label\n\xff\xfe,3\n", "x.csv cannot be read as a CSV file"),
        (b"file,label\na.npy,3\n", "a.npy holds 2 images"),
        (b"file,label\nempty.npy,3\n", "empty.npy is empty"),
    ],
)
def test_csv_files_that_are_none(content: bytes, message: str) -> None:
    np.save("a.npy", np.zeros((2, 4, 4, 3)))
    Path("empty.npy").touch()
    Path("x.csv").write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset("x.csv")
    assert caught.value.hint


def test_very_many_mistakes_are_counted() -> None:
    write("x.csv", "file,label\n" + "".join(f"{i}.png,1\n" for i in range(5000)))
    with pytest.raises(UsageError) as caught:
        load_dataset("x.csv")
    assert len(caught.value.problems) == 21
    assert problems(caught.value)[-1] == "x.csv has 4,980 more problems"


def test_labels_for_a_folder_or_pattern() -> None:
    pictures("data/a.png", "data/b.png", "data/sub/c.png")
    labels = write("labels.csv", "file,label\ndata/b.png,dog\ndata/a.png,cat\ndata/sub/c.png,eel\n")
    data = load_dataset("data", labels=labels)
    assert (data.keys, data.labels.tolist()) == (("a.png", "b.png", "sub/c.png"), [0, 1, 2])
    assert load_dataset("data/b.png", labels=labels).labels.tolist() == [1]
    labels = write("labels.csv", "file,label\ndata/b.png,dog\n")
    with pytest.raises(UsageError) as caught:
        load_dataset("data", labels=labels)
    assert problems(caught.value) == [f"labels.csv has no label for data/{name}" for name in ("a.png", "sub/c.png")]
    with pytest.raises(UsageError, match=r"gone.csv cannot be read"):
        load_dataset("data", labels=Path("gone.csv"))


def test_labels_of_class_folders_can_be_replaced() -> None:
    pictures("data/cat/a.png", "data/dog/b.png")
    labels = write("labels.csv", "file,label\ndata/cat/a.png,3\ndata/dog/b.png,5\n")
    data = load_dataset("data", labels=labels)
    assert (data.labels.tolist(), data.classes) == ([3, 5], ())


@pytest.mark.parametrize("name", ["cifar10", "imagenet100:val", "x.npz", "x.csv"])
def test_a_labels_file_is_refused_for_data_sets_with_labels(name: str) -> None:
    pictures(f"val/{WNIDS[0]}/a.png")
    labels = write("x.csv", f"file,label\nval/{WNIDS[0]}/a.png,1\n")
    np.savez("x.npz", x=np.zeros((1, 4, 4, 3)), y=np.zeros(1, int))
    with pytest.raises(UsageError, match="--labels"):
        load_dataset(name, labels=labels)


def save_arrays(path: str, **arrays: np.ndarray) -> None:
    if path.endswith(".npz"):
        np.savez_compressed(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


@pytest.mark.parametrize("file", ["some.npz", "some.safetensors"])
@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_array_files(file: str, channels_first: bool, dtype: type) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3)).astype(np.uint8)
    expected = torch.from_numpy(x).movedim(-1, 1) / 255
    stored = x if dtype is np.uint8 else (x / 255).astype(np.float32)
    stored = np.ascontiguousarray(stored.transpose(0, 3, 1, 2)) if channels_first else stored
    save_arrays(f"{file}", x=stored, y=np.array([4, 0, 1, 2, 9, 3], np.int32))
    data = load_dataset(file)
    batch = data.batch(2, 5)
    assert batch.x.allclose(expected[2:5], atol=1e-7)
    assert batch.y.tolist() == [1, 2, 9]
    assert batch.keys[0] == f"{file}/000002"
    assert (data.image_shape, data.classes, data.labelled) == ((3, 5, 7), (), True)
    assert load_dataset(file, n=2).indices == (0, 1)


@pytest.mark.parametrize("file", ["some.npz", "some.safetensors"])
def test_the_default_array_and_a_named_array_have_the_labels_y(file: str) -> None:
    images = {name: np.full((2, 4, 4, 3), i / 10, np.float32) for i, name in enumerate(("x", "x_adv"))}
    save_arrays(file, **images, y=np.array([5, 6]))
    assert load_dataset(file).batch(0, 1).x.unique().tolist() == pytest.approx([0.1])
    assert load_dataset(file).labels.tolist() == [5, 6]
    assert load_dataset(f"{file}:x").batch(0, 1).x.unique().tolist() == [0]
    assert load_dataset(f"{file}:x").labels.tolist() == [5, 6]
    splits = {f"x_{split}": np.zeros((n, 4, 4, 3)) for split, n in (("train", 2), ("test", 1))}
    save_arrays(file, **splits, y_train=np.array([1, 2]), y_test=np.array([3]))
    assert load_dataset(file).labels.tolist() == load_dataset(file, split="test").labels.tolist() == [3]
    assert load_dataset(file, split="train").labels.tolist() == [1, 2]
    save_arrays(file, pictures=np.zeros((2, 4, 4, 3)), scores=np.zeros(2))
    assert load_dataset(file).labels.tolist() == [-1, -1]
    with pytest.raises(UsageError, match="has no array 'x_train'"):
        load_dataset(file, split="train")
    with pytest.raises(UsageError, match="has no array 'x'"):
        load_dataset(f"{file}:x")


def test_npy_files_have_no_labels() -> None:
    np.save("x.npy", np.zeros((3, 4, 4, 3)))
    data = load_dataset("x.npy")
    assert (len(data), data.labelled, data.keys[2]) == (3, False, "x.npy/000002")
    np.save("one.npy", np.zeros((4, 4, 3)))
    assert load_dataset("one.npy").keys == ("one.npy",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3), "y has numbers of type float64"),
        (np.zeros(2, int), r"y has the shape \(2,\), but there are 3 images"),
        (np.zeros((3, 10), int), r"y has the shape \(3, 10\)"),
        (np.array([0, -1, 2]), "y has the label -1"),
        (np.array(["cat", "dog", "eel"]), "y has numbers of type <U3"),
        (np.array([{}, 1, 2]), "x.npz:y cannot be read"),
    ],
)
def test_labels_in_arrays_are_checked(labels: np.ndarray, message: str) -> None:
    np.savez("x.npz", x=np.zeros((3, 4, 4, 3)), y=labels, allow_pickle=True)
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset("x.npz:x")
    assert caught.value.hint


def test_labels_that_are_all_unknown_are_none() -> None:
    np.savez("x.npz", x=np.zeros((2, 4, 4, 3)), y=np.array([-1, -1]))
    assert not load_dataset("x.npz").labelled


@pytest.mark.parametrize("name", ["cifar-10", "gone.npz", "gone.csv", "gone/", "", "-", "gone.npz:x", "cifar10:x"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(UsageError, match=f"no data set, file or folder is called {name!r}") as caught:
        load_dataset(name)
    assert ("did you mean cifar10?" if "cifar" in name else "imagenet100:FOLDER") in caught.value.hint


def test_damaged_and_meaningless_files_are_refused_early() -> None:
    write("x.npz", "PK and no more")
    write("x.safetensors", "????????{")
    write("empty.npy", "")
    np.save("flat.npy", np.zeros(5))
    Path("folder").mkdir()
    write("folder/notes.txt", "hello")
    pictures("some/cat/a.png")
    write("some/cat/b.npy", "")
    expected = {
        "x.npz": "x.npz cannot be read",
        "x.safetensors": r"x.safetensors cannot be read",
        "empty.npy": "empty.npy is empty",
        "flat.npy": "flat.npy does not hold images",
        "folder": "the folder 'folder' holds no image",
        "some": "b.npy is empty",
        "*.webp": "matches no image",
    }
    for name, message in expected.items():
        with pytest.raises(UsageError, match=message):
            load_dataset(name)


def test_splits_are_of_what_has_them() -> None:
    pictures("data/a.png")
    with pytest.raises(UsageError, match="data has no split train"):
        load_dataset("data", split="train")


def test_problems_of_several_arguments_are_reported_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        load_dataset("gone", n=-1, image_size=(0, 5))
    assert [text[:12] for text in problems(caught.value)] == ["--n -1 is no", "images canno", "no data set,"]


# --- reading


def test_images_are_read_only_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(*(f"data/{i}.png" for i in range(9)))
    Path("data/6.png").write_bytes(Path("data/6.png").read_bytes()[:60])
    read: list[str] = []
    original = cmap_cli.data.dataset.read_image

    def counted(source: cmap_cli.data.dataset.Source) -> object:
        read.append(source.path.name)
        return original(source)

    monkeypatch.setattr("cmap_cli.data.dataset.read_image", counted)
    data = load_dataset("data", image_size=(4, 4))
    assert (data.resized, data.image_shape, read) == (True, (3, 4, 4), [])
    assert data.batch(0, 5).x.shape == (5, 3, 4, 4)
    assert data.batch(7, 100).keys == ("7.png", "8.png")
    assert read == ["0.png", "1.png", "2.png", "3.png", "4.png", "7.png", "8.png"]
    with pytest.raises(ImageError, match=r"data/6.png cannot be read"):
        data.batch(5, 7)
    with pytest.raises(IndexError, match="no images from 9 to 12 of 9"):
        data.batch(9, 12)


def test_a_picture_without_a_header_stops_nothing_but_its_batch() -> None:
    pictures("data/a.png", "data/b.png")
    write("data/c.png", "no picture")
    data = load_dataset("data", image_size=(8, 8))
    assert not data.resized
    assert load_dataset("data").image_shape == (3, 8, 8)
    assert len(data.batch(0, 2).keys) == 2
    with pytest.raises(ImageError, match=r"data/c.png is not an image"):
        data.batch(2, 3)


def test_more_images_than_memory_are_no_matter() -> None:
    shape = (5_000, 2_000, 2_000, 3)
    with Path("huge.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.truncate(stream.tell() + int(np.prod(shape)))  # a hole of 60 GB
    data = load_dataset("huge.npy", image_size=(4, 4))
    assert data.batch(4_999, 5_000).x.eq(0).all()


def test_images_of_different_sizes_need_a_size() -> None:
    picture("data/a.png", (8, 8))
    picture("data/b.png", (9, 7))
    data = load_dataset("data")
    assert data.image_shape is None
    assert not data.resized
    assert data.batch(1, 2).x.shape == (1, 3, 7, 9)
    with pytest.raises(UsageError, match=r"data/b.png has 9×7 pixels, but data/a.png has 8×8") as caught:
        data.batch(0, 2)
    assert "of one size" in caught.value.hint
    assert load_dataset("data", image_size=(7, 7)).batch(0, 2).x.shape == (2, 3, 7, 7)


# --- classes


@pytest.fixture
def animals() -> Dataset:
    pictures("data/bird/a.png", "data/cat/b.png", "data/dog/c.png")
    return load_dataset("data")


def test_classes_in_another_order_are_matched_by_name(animals: Dataset) -> None:
    matched = match_classes(animals, ("dog", "bird", "cat"), 3)
    assert (matched.labels.tolist(), matched.classes) == ([1, 2, 0], ("dog", "bird", "cat"))
    assert matched.keys == animals.keys
    assert match_classes(animals, CIFAR10, 10).labels.tolist() == [2, 3, 5]
    assert match_classes(animals, ("bird", "cat", "dog"), 3) is animals


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("bird", "tiger", "dog"), "has no class 'cat', which data has; its classes are bird, tiger, dog"),
        (("bird", "cat", "dog", "cat"), "knows 2 classes called 'cat'"),
    ],
)
def test_classes_that_differ_are_refused(animals: Dataset, classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        match_classes(animals, classes, len(classes))
    assert "CSV" in caught.value.hint


@pytest.mark.parametrize("classes", [(), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_classifier_without_names_needs_as_many_classes(animals: Dataset, classes: tuple[str, ...]) -> None:
    assert match_classes(animals, classes, 3).labels.tolist() == [0, 1, 2]
    assert match_classes(animals, classes, 3).classes == ("bird", "cat", "dog")
    with pytest.raises(UsageError, match="data has 3 classes and the classifier 1000"):
        match_classes(animals, (), 1000)


@pytest.mark.parametrize("named", [True, False])
def test_class_folders_with_wordnet_identifiers_get_the_numbers_of_imagenet(named: bool) -> None:
    pictures("data/n02123045/a.png", "data/n01440764/b.png", "data/n15075141/c.png")
    data = load_dataset("data")
    names = tuple(f"class {number}" for number in range(1000))
    matched = match_classes(data, names if named else (), 1000)
    assert dict(zip(matched.keys, matched.labels.tolist(), strict=True)) == {
        "n01440764/b.png": 0,  # tench
        "n02123045/a.png": 281,  # tabby
        "n15075141/c.png": 999,  # toilet tissue
    }
    assert matched.classes[281] == ("class 281" if named else "n02123045")
    other = tuple(reversed(imagenet_identifiers()))
    assert match_classes(data, other, 1000).labels.tolist() == [999 - label for label in matched.labels.tolist()]
    with pytest.raises(UsageError, match="data has 3 classes and the classifier 1001"):
        match_classes(data, (), 1001)
    pictures("data/n00000001/d.png")
    with pytest.raises(UsageError, match="data has 4 classes and the classifier 1000"):
        match_classes(load_dataset("data"), (), 1000)


def test_the_identifiers_of_imagenet_are_in_order_and_hold_those_of_imagenet100() -> None:
    identifiers = imagenet_identifiers()
    assert (len(identifiers), identifiers) == (1000, tuple(sorted(identifiers)))
    assert set(WNIDS) <= set(identifiers)


@pytest.mark.parametrize("classes", [(), CIFAR10])
def test_labels_that_are_numbers_must_be_the_classifiers(classes: tuple[str, ...]) -> None:
    np.savez("x.npz", x=np.zeros((3, 4, 4, 3)), y=np.array([1, 10, 9]))
    with pytest.raises(UsageError, match=r"x.npz/000001 of x.npz has the label 10, no class") as caught:
        match_classes(load_dataset("x.npz"), classes, 10)
    assert "up to 9" in caught.value.hint
    first = match_classes(load_dataset("x.npz", n=1), classes, 10)
    assert (first.labels.tolist(), first.classes) == ([1], classes)


def test_images_without_labels_match_any_classifier() -> None:
    pictures("a.png")
    data = load_dataset("a.png")
    assert match_classes(data, CIFAR10, 10) is data


def test_cifar10_is_not_for_a_classifier_of_imagenet() -> None:
    with pytest.raises(UsageError, match="has no class 'airplane', which cifar10 has; its classes are tench, shark"):
        match_classes(load_dataset("cifar10", n=1), ("tench", "shark"), 2)
