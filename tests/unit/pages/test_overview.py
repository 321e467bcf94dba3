"""The list and the head of a model: the first word is right, and a number is shown only where one is known."""

from __future__ import annotations

from typing import Any

import pytest
from continual_contract.history import VersionPoint
from continual_contract.report import DriftState
from continual_gateway.views.overview import answers_per_second, head, row, spark, state_of, windowed
from continual_gateway.views.text import count, milliseconds, seconds, short, span, wilson, words
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("conditions", "word", "tone"),
    [
        ([], "Starting", "busy"),
        ([("Ready", "True", "AsExpected")], "Ready", "good"),
        ([("Ready", "False", "NoReadyPods")], "Not ready", "bad"),
        ([("Ready", "True", "AsExpected"), ("Degraded", "True", "DeadLetters")], "Degraded", "warn"),
        ([("SpecValid", "False", "InvalidSpec"), ("Ready", "True", "AsExpected")], "Invalid", "bad"),
    ],
)
def test_the_first_word_is_what_matters_most(snapshot: Any, worlds: Any, conditions: Any, word: str, tone: str) -> None:
    listed = [{"type": kind, "status": status, "reason": reason} for kind, status, reason in conditions]
    pill = state_of(snapshot(worlds.ready(conditions=listed)))
    assert (pill.word, pill.tone) == (word, tone)


def test_a_model_one_second_old_has_a_line_and_a_page(snapshot: Any) -> None:
    """No status at all: dashes, no exception, and the state says that it starts."""
    fresh = snapshot({})
    assert (row(fresh).stable, row(fresh).accuracy, row(fresh).state.word) == ("–", "–", "Starting")
    assert head(fresh).figures[0].note == "the first training is under way"


def test_the_reports_accuracy_is_fresher_than_the_status(snapshot: Any, worlds: Any) -> None:
    assert row(snapshot(worlds.ready(), report=worlds.report())).accuracy == "95.0 %"
    said = worlds.ready()
    said["stable"]["accuracy"] = {"value": "0.912", "lower": "0.900", "upper": "0.930"}
    assert (row(snapshot(said)).accuracy, row(snapshot(said)).interval) == ("91.2 %", "90.0–93.0")


def test_a_silent_evaluator_is_told(snapshot: Any, worlds: Any) -> None:
    old = worlds.report(time_ms=worlds.now_ms - 61_000)
    assert [pill.word for pill in head(snapshot(worlds.ready(), report=old)).notices] == ["Evaluator silent"]
    young = worlds.report(time_ms=worlds.now_ms - 59_000)
    assert head(snapshot(worlds.ready(), report=young)).notices == ()


@pytest.mark.parametrize(
    ("drift", "value", "tone"),
    [
        ({"armed": False, "labels": 120}, "learning", "busy"),
        ({"armed": True, "labels": 900, "log_statistic": 5.5}, "none", "good"),
        ({"armed": True, "labels": 900, "log_statistic": 8.5}, "rising", "warn"),
        ({"armed": True, "labels": 900, "alarms": 1, "last_alarm_labels": 640}, "alarm", "bad"),
    ],
)
def test_drift_is_a_word(snapshot: Any, worlds: Any, drift: dict[str, Any], value: str, tone: str) -> None:
    state = DriftState(version="v1", log_threshold=9.21, **drift)
    figure = next(
        f for f in head(snapshot(worlds.ready(), report=worlds.report(drift=state))).figures if f.name == "Drift"
    )
    assert (figure.value, figure.tone) == (value, tone)


def test_accuracy_over_time_is_of_the_last_labels_not_of_all(worlds: Any) -> None:
    """A version that was right 100 times and wrong 50 times since: a window of 50 shows 0, all together would show 67 %."""
    points = [
        worlds.point(0, v1=VersionPoint(labels=100, correct=100)),
        worlds.point(10, v1=VersionPoint(labels=150, correct=100)),
    ]
    line = windowed(points, "v1", 50)
    assert [round(accuracy, 3) for _, accuracy, _, _ in line] == [1.0, 0.0]
    assert line[1][3] < 0.1


def test_a_version_that_is_counted_anew_begins_anew(worlds: Any) -> None:
    """Fewer labels than before: another life of the same number; nothing is subtracted from the old one."""
    points = [
        worlds.point(0, v1=VersionPoint(labels=500, correct=400)),
        worlds.point(10, v1=VersionPoint(labels=60, correct=60)),
        worlds.point(20, v1=VersionPoint(labels=120, correct=120)),
    ]
    assert [accuracy for _, accuracy, _, _ in windowed(points, "v1", 50)][1:] == [1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=40), st.integers(1, 80))
def test_accuracy_over_time_stays_a_share(steps: list[tuple[int, int]], window: int) -> None:
    """Whatever is counted, accuracy and interval lie in 0..1 and the interval holds the accuracy."""
    from continual_contract.history import HistoryPoint

    labels = correct = 0
    points = []
    for index, (right, wrong) in enumerate(steps):
        labels, correct = labels + right + wrong, correct + right
        points.append(HistoryPoint(time_ms=index * 1000, versions={"v1": VersionPoint(labels=labels, correct=correct)}))
    for _, accuracy, low, high in windowed(points, "v1", window):
        assert -1e-9 <= low <= accuracy + 1e-9
        assert accuracy - 1e-9 <= high <= 1 + 1e-9


def test_the_rate_is_of_the_last_minute(worlds: Any) -> None:
    points = [worlds.point(second, v1=VersionPoint(answers=second * 10)) for second in range(0, 200, 20)]
    assert answers_per_second(points) == pytest.approx(10.0)
    assert answers_per_second(points[:1]) is None


def test_a_spark_stays_in_its_box(worlds: Any) -> None:
    points = [worlds.point(s, v1=VersionPoint(labels=s * 10, correct=s * 9)) for s in range(1, 30)]
    pairs = [tuple(map(float, place.split(","))) for place in spark(points, "v1").split()]
    assert all(0 <= x <= 120 and 0 <= y <= 28 for x, y in pairs)
    assert spark([], "v1") == ""


def test_numbers_read_as_people_write_them() -> None:
    assert count(12345) == "12\u202f345"
    assert (milliseconds(560), milliseconds(123_400)) == ("0.56 ms", "123 ms")
    assert (seconds("1h30m"), seconds("500ms"), seconds(None, 7)) == (5400, 0.5, 7)
    assert (span(45), span(600), span(7200), span(200_000)) == ("45 s", "10 min", "2 h", "2 d")
    assert (words("TooFewLabels"), short("sha256:" + "ab" * 32)) == ("Too few labels", "abababababab")
    assert wilson(0, 0) == (0.0, 1.0)
