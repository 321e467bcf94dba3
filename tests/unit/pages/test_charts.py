"""Curves: every column has one value per time, bands begin and end where it was decided, and no chart grows without bound."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from continual_contract.history import COARSE, FINE, HistoryPoint, VersionPoint, point_of
from continual_contract.report import Report
from continual_gateway.pages.reading import Line, parsed
from continual_gateway.views.charts import MAX_POINTS, charts
from continual_gateway.views.snapshot import Epoch


def at(worlds: Any, second: int) -> str:
    return datetime.fromtimestamp((worlds.now_ms - 600_000) / 1000 + second, UTC).isoformat()


def some(worlds: Any, seconds: range) -> tuple[HistoryPoint, ...]:
    return tuple(worlds.point(s, v1=VersionPoint(answers=s * 9, labels=s, correct=s)) for s in seconds)


def test_columns_are_as_long_as_their_times(snapshot: Any, worlds: Any) -> None:
    drawn = charts(snapshot(worlds.ready(), fine=some(worlds, range(0, 600, 2))))
    for name, chart in drawn.items():
        for series in chart["series"]:
            for column in ("values", "low", "high"):
                assert len(series.get(column, chart["times"])) == len(chart["times"]), name


def test_bands_follow_the_ledger(snapshot: Any, worlds: Any) -> None:
    """Shadow, canary, probation, each until the next; after the pass nothing is shaded."""
    lines = [
        {"action": action, "version": "v2", "time": at(worlds, second), "sequence": second}
        for action, second in (("Shadow", 100), ("Step", 200), ("Promote", 290), ("Probation", 300), ("Pass", 400))
    ]
    chart = charts(snapshot(worlds.ready(decisions=lines), fine=some(worlds, range(0, 600, 2))))["accuracy"]
    begin = (worlds.now_ms - 600_000) / 1000
    assert [(b["kind"], b["from"] - begin, b["to"] - begin) for b in chart["bands"]] == [
        ("shadow", 100, 200), ("canary", 200, 300), ("probation", 300, 400),
    ]  # fmt: skip
    assert {mark["label"] for mark in chart["marks"]} == {"Promote v2", "Probation v2"}


def test_a_running_canary_is_shaded_until_now(snapshot: Any, worlds: Any) -> None:
    lines = [{"action": "Shadow", "version": "v2", "time": at(worlds, 100), "sequence": 1}]
    chart = charts(snapshot(worlds.ready(decisions=lines), fine=some(worlds, range(0, 600, 2))))["accuracy"]
    assert chart["bands"][0]["to"] == chart["times"][-1]


def test_a_week_is_thinned_and_keeps_its_end(snapshot: Any, worlds: Any) -> None:
    """Of 4 000 points at most MAX_POINTS are sent, the newest among them."""
    points = some(worlds, range(-3400, 600))
    times = charts(snapshot(worlds.ready(), fine=points), 10_080)["lag"]["times"]
    assert len(times) <= MAX_POINTS
    assert times[-1] == points[-1].time_ms / 1000


def test_the_coarse_history_reaches_back_where_the_fine_one_ends(snapshot: Any, worlds: Any) -> None:
    fine, coarse = some(worlds, range(300, 600, 2)), some(worlds, range(-900, 600, 300))
    times = charts(snapshot(worlds.ready(), fine=fine, coarse=coarse), 1440)["lag"]["times"]
    assert times == sorted(set(times))
    assert times[0] == coarse[0].time_ms / 1000


def test_a_version_nobody_asks_any_more_ends_its_line(snapshot: Any, worlds: Any) -> None:
    """v2's count of answers stands still: half a minute later its latency is no longer drawn."""
    points = tuple(worlds.point(s, v2=VersionPoint(answers=min(s, 100), p95_us=500.0)) for s in range(0, 200, 10))
    values = charts(snapshot(worlds.ready(), fine=points))["latency"]["series"][0]["values"]
    assert values[10] == 0.5
    assert values[-1] is None


def test_training_curves_are_by_epoch(snapshot: Any, worlds: Any) -> None:
    chart = charts(snapshot(worlds.ready(), epochs=(Epoch(1, 0.5, 0.9), Epoch(2, 0.2, 0.95, 0.94)), epochs_of="v1"))[
        "training"
    ]
    assert (chart["times"], chart["x"], chart["version"]) == ([1, 2], "epoch", "v1")
    assert chart["series"][1]["values"] == [None, 94.0]


def test_a_history_is_read_on_and_begun_anew_when_its_stream_was(worlds: Any) -> None:
    """New entries are added, the oldest leave, and a stream that ends before us was deleted: all is read again."""
    line = Line()
    raw = {b"p": worlds.point(0).model_dump_json().encode()}
    line.extend([(b"5-0", raw), (b"6-0", raw)], b"6-0", FINE)
    line.extend([(b"6-0", raw), (b"7-0", raw)], b"7-0", FINE)
    assert (len(line.points), line.start()) == (3, b"(7-0")
    line.extend([], b"2-0", FINE)
    assert (line.points, line.start()) == ([], b"(0-0")
    assert FINE.points * 2 < COARSE.points * 300, "the fine history is the short one"


def test_what_a_newer_evaluator_writes_is_passed_over(worlds: Any) -> None:
    """During an upgrade a report may have fields that this gateway does not know: the page goes on without it."""
    assert parsed(Report, worlds.report().model_dump_json().encode()) == worlds.report()
    assert parsed(Report, b'{"seq": 1, "invented": true}') is None
    line = Line()
    line.extend([(b"5-0", {b"p": b'{"invented": 1}'}), (b"6-0", {b"p": b'{"time_ms": 1}'})], b"6-0", FINE)
    assert [point.time_ms for point in line.points] == [1]


def test_a_point_keeps_what_is_drawn_and_no_more(worlds: Any) -> None:
    """Bounded: a point of two versions and a pair stays below 600 bytes, a whole fine history below about a megabyte."""
    kept = point_of(worlds.report(pair=worlds.pair(), lag_seconds={"v1": 0.25}))
    assert kept.versions["v1"].lag_seconds == 0.25
    assert kept.pair is not None
    assert kept.pair.pairs == 60
    assert len(kept.model_dump_json(exclude_defaults=True)) < 600
