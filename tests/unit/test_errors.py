"""One problem or several, all at once."""

from __future__ import annotations

from importlib import metadata

import pytest

from cmap_cli.errors import CmapError, ImageError, UsageError, WeightsError, collecting, pip_install, raise_all


def test_without_problems_nothing_is_raised() -> None:
    raise_all([])


def test_one_problem_is_raised_as_it_is() -> None:
    problem = WeightsError("no weights", "download them")
    with pytest.raises(WeightsError) as caught:
        raise_all([problem])
    assert caught.value is problem
    with pytest.raises(UsageError, match="no image") as converted:
        raise_all([ImageError("no image", "take another")])
    assert (converted.value.hint, converted.value.exit_code) == ("take another", 2)


def test_several_problems_are_raised_together_and_taken_apart() -> None:
    problems: list[CmapError] = []
    with collecting(problems):
        raise UsageError("one")
    with collecting(problems):
        raise_all([UsageError("two"), UsageError("three")])
    with collecting(problems):
        pass
    with pytest.raises(UsageError, match="3 problems: one; two; three") as caught:
        raise_all(problems)
    assert [str(each) for each in caught.value.problems] == ["one", "two", "three"]


def test_many_problems_are_counted() -> None:
    with pytest.raises(UsageError, match=r"x\.csv has 25 problems") as caught:
        raise_all([UsageError(str(number)) for number in range(25)], "x.csv")
    assert [str(each) for each in caught.value.problems][19:] == ["19", "x.csv has 5 more problems"]


def test_extras_are_installed_by_what_they_need_so_that_a_clone_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        assert name == "cmap-cli"
        return ["torch>=2.6", "onnxruntime>=1.20; extra == 'onnx'", 'timm>=1.0; extra == "timm"', "x; extra == 'onnxx'"]

    monkeypatch.setattr(metadata, "requires", requires)
    assert pip_install("onnx") == "pip install 'onnxruntime>=1.20'"
    assert pip_install("timm") == "pip install 'timm>=1.0'"
    assert pip_install("new") == "pip install 'cmap-cli[new]'"

    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert pip_install("onnx") == "pip install 'cmap-cli[onnx]'"
