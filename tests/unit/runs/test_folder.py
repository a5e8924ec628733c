"""The folder of the user's cache that a run without --out gets."""

from __future__ import annotations

import pytest

from cmap_cli.runs.folder import default_folder

SETTINGS = {"dataset": "cifar10", "n": 8, "eps": ["8/255"]}


def test_equal_settings_get_the_same_folder_and_others_another() -> None:
    first = default_folder("benchmarks", ("cifar10", "pgd"), SETTINGS)
    again = default_folder("benchmarks", ("cifar10", "pgd"), dict(reversed(SETTINGS.items())))
    other = default_folder("benchmarks", ("cifar10", "pgd"), SETTINGS | {"n": 9})
    assert first == again
    assert first != other
    assert first.parent == other.parent
    assert first.parent.name == "benchmarks"


@pytest.mark.parametrize(
    ("words", "beginning"),
    [
        (("cifar10", "pgd", "square"), "cifar10-pgd-square-"),
        (("/data/holiday photos.npz", "pgd"), "holiday-photos.npz-pgd-"),
        (("imagenet100:/data/imagenet", "pgd"), "imagenet-pgd-"),
        (("../..", ".hidden", "pgd"), "hidden-pgd-"),
        (("写真", "pgd"), "pgd-"),
        (("x" * 500, "pgd"), "x" * 80 + "-"),
        ((), ""),
    ],
)
def test_the_name_begins_with_words_that_a_file_system_takes(words: tuple[str, ...], beginning: str) -> None:
    folder = default_folder("benchmarks", words, SETTINGS)
    digest = default_folder("benchmarks", (), SETTINGS).name
    assert folder.name == beginning + digest
    assert len(digest) == 12
