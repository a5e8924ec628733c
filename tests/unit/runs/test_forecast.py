"""What estimates promise: ranges that hold what comes, and that come closer to it."""

import random
import statistics

import pytest

from cmap_cli.runs.forecast import Forecast, Span, TaskTimes, measured


def test_before_any_task_the_forecast_is_that_of_the_measurement() -> None:
    left = Forecast({"a": measured(2.0), "b": measured(1.0)}, {"a": 3, "b": 4}).left()
    assert left.low < 10 < left.high


def test_an_attack_that_may_end_early_has_a_wide_range() -> None:
    assert measured(10.0, least=0.1).low == pytest.approx(measured(10.0).low / 10)
    assert measured(10.0, least=0.1).high == measured(10.0).high


def test_finished_tasks_correct_what_was_measured() -> None:
    forecast = Forecast({"a": measured(1.0), "b": measured(1.0)}, {"a": 10, "b": 10})
    before = forecast.left()
    for _ in range(5):
        forecast.finish("a", 3.0)
    after = forecast.left()
    assert before.high < 15 * 3 < after.high  # the kind that was not seen is corrected too
    assert after.low < 15 * 3
    assert after.high / after.low < before.high / before.low


def test_the_rest_of_noisy_tasks_is_in_the_range() -> None:
    draw = random.Random(0)
    for _ in range(20):
        forecast, seconds = Forecast({"a": measured(1.0)}, {"a": 60}), [draw.uniform(1.0, 3.0) for _ in range(60)]
        for each in seconds[:20]:
            forecast.finish("a", each)
        left = forecast.left()
        assert left.low < sum(seconds[20:]) < left.high


def test_nothing_is_left_at_the_end() -> None:
    forecast = Forecast({"a": Span(1, 2)}, {"a": 4})
    forecast.finish("a", 6.0, 4)
    assert forecast.left() == Span()


def test_without_a_measurement_the_tasks_themselves_tell() -> None:
    forecast = Forecast({"a": Span()}, {"a": 10})
    assert forecast.left() == Span()
    for _ in range(4):
        forecast.finish("a", 2.0)
    assert forecast.left().low < 12 < forecast.left().high


@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (3, 1, 2, 1)])
def test_sums_have_the_mean_and_the_deviation_of_the_tasks(counts: tuple[int, ...]) -> None:
    finished, seconds = TaskTimes(), (0.5, 4.0, 1.0, 2.5)
    for each, count in zip(seconds, counts, strict=True):
        finished.add(each, count)
    tasks = [each for each, count in zip(seconds, counts, strict=True) for _ in range(count)]
    assert finished.mean == pytest.approx(statistics.mean(tasks))
    assert finished.deviation == pytest.approx(statistics.stdev(tasks))


def test_one_slow_short_task_does_not_determine_the_forecast() -> None:
    forecast = Forecast({"short": measured(1.0), "long": measured(100.0)}, {"short": 2, "long": 10})
    forecast.finish("short", 10.0)
    assert forecast.left().low < 1000 < forecast.left().high
