"""The library call behind ``cmap purify``."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmap_cli import purify_folder
from cmap_cli.errors import UsageError
from cmap_cli.purify.events import Listed, Message, Progress, PurifyPlan

QUICK = {"preset": "fast", "steps": 2, "num_latents": 2}


def test_the_result_is_typed_and_the_callbacks_tell_what_happens(
    images: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes(b"")
    messages: list[Message] = []
    events: list[Progress] = []
    result = purify_folder(
        images,
        tmp_path / "out",
        model=str(small_model),
        on_message=messages.append,
        on_progress=events.append,
        **QUICK,
    )
    assert capsys.readouterr() == ("", "")
    assert (result.written, result.already_there, result.failed, result.exit_code) == (5, 0, 1, 3)
    assert result.failures[0].source.endswith("broken.png")
    assert result.summary is not None
    assert result.summary.images == 5
    assert {record.output for record in result.records()} == {"a.png", "b.png", "c.png", "sub/d.png", "sub/e.png"}
    listed, plan = messages
    assert isinstance(listed, Listed)
    assert isinstance(plan, PurifyPlan)
    assert (listed.images, plan.survey.patches, plan.models[0].config.steps) == (6, 5, 2)
    assert plan.seconds_per_patch > 0
    assert sum(event.image is not None for event in events) == 5
    assert [event.failure.source for event in events if event.failure] == [str(images / "broken.png")]
    steps = [event for event in events if event.step is not None]
    assert steps
    assert all(event.loss is not None for event in steps)


def test_a_second_call_finds_everything_done(images: Path, small_model: Path, tmp_path: Path) -> None:
    for expected in ((5, 0), (0, 5)):
        result = purify_folder([images], tmp_path / "out", model=str(small_model), **QUICK)
        assert (result.written, result.already_there) == expected


def test_all_images_failed_is_a_failure(images: Path, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes((images / "a.png").read_bytes()[:-40])
    result = purify_folder(tmp_path / "bad", tmp_path / "out", model=str(small_model), **QUICK)
    assert (result.written, result.failed, result.exit_code) == (0, 1, 1)


def test_a_dry_run_writes_nothing(images: Path, small_model: Path, tmp_path: Path) -> None:
    result = purify_folder(images, tmp_path / "out", model=str(small_model), dry_run=True, **QUICK)
    assert (result.dry_run, result.plan.survey.patches, result.summary) == (True, 5, None)
    assert not (tmp_path / "out").exists()


def test_labels_the_classifier_does_not_have_are_listed(images: Path, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"file,label\n{images}/a.png,cat\n{images}/b.png,dog\n")
    options = {"classifier": "tests.toys:brightness_classifier", "labels": tmp_path / "labels.csv"}
    with pytest.raises(UsageError) as caught:
        purify_folder(images, tmp_path / "out", model=str(small_model), **QUICK, **options)
    assert [str(problem)[:15] for problem in caught.value.problems] == ["the label 'cat'", "the label 'dog'"]
