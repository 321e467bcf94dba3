"""The steps of a correction: exactly one is under way until it is over, and a failure says why."""

from __future__ import annotations

from typing import Any

import pytest
from continual_gateway.views.corrections import Again, Newest, Told, newest_answer, progress
from continual_gateway.views.samples import sample_table


def states(view: Any) -> list[str]:
    return [step.state for step in view.steps]


TOLD = {"was": "4", "label": "0"}
LEARNED = TOLD | {"job": "j", "digest": "sha256:x", "after": "0", "after_confidence": 0.9}


@pytest.mark.parametrize(
    ("told", "again", "expected"),
    [
        (Told("waiting", **TOLD), None, ["done", "now", "ahead", "ahead", "ahead"]),
        (Told("training", **TOLD, job="j", epoch=3, epochs=20), None, ["done", "now", "ahead", "ahead", "ahead"]),
        (Told("learned", **LEARNED), None, ["done", "done", "done", "now", "ahead"]),
        (Told("learned", **LEARNED, version="v2", live=True), None, ["done", "done", "done", "done", "now"]),
        (Told("learned", **LEARNED, version="v2", live=True), Again("0", 0.9, "v2"), ["done"] * 5),
        (
            Told("failed", **TOLD, job="j", message="Diverged: loss"),
            None,
            ["done", "failed", "ahead", "ahead", "ahead"],
        ),
    ],
)
def test_the_steps_advance_one_by_one(snapshot: Any, worlds: Any, told: Told, again: Any, expected: list[str]) -> None:
    assert states(progress(snapshot(worlds.ready()), told, again)) == expected


def test_fixed_is_said_only_of_the_live_answer(snapshot: Any, worlds: Any) -> None:
    """The checkpoint's own answer is a promise; what the stream answers is the fact."""
    here = snapshot(worlds.ready())
    told = Told("learned", **LEARNED, version="v2", live=True)
    assert progress(here, told, None).fixed is None
    assert progress(here, told, Again("0", 0.9, "v2")).fixed is True
    assert progress(here, told, Again("4", 0.9, "v2")).fixed is False


def test_a_rejected_candidate_ends_the_wait(snapshot: Any, worlds: Any) -> None:
    told = Told("learned", **LEARNED)
    view = progress(snapshot(worlds.ready(quarantine=["sha256:x"])), told, None)
    assert (view.over, view.fixed) == (True, False)
    assert "the rest would have suffered" in view.steps[3].note


def test_samples_get_columns_for_what_their_table_said() -> None:
    from types import SimpleNamespace

    common = {"hash": "h", "id": "1-0", "source": "truth", "by": "a", "time_ms": 0, "confidence": 0.9, "version": "v1"}
    rows = [
        SimpleNamespace(file="a.png", label="0", predicted="0", values={"country": "Japan", "post id": "1"}, **common),
        SimpleNamespace(file="b.png", label="1", predicted="2", values={"country": "Peru"}, **common),
        SimpleNamespace(file="c.png", label="", predicted="", values={}, **common),
    ]
    table = sample_table(rows)
    assert table.columns == ("country", "post id")
    assert [row.values for row in table.rows] == [("Japan", "1"), ("Peru", ""), ("", "")]
    assert [(row.verdict, row.tone) for row in table.rows] == [("right", "good"), ("wrong", "bad"), ("", "idle")]


def test_the_newest_answer_is_the_live_one_then_the_checkpoints_own_then_what_it_should_be():
    """Beside the old answer stands the newest there is, right or wrong; before any, what was said to be right."""
    told = Told(state="waiting", was="4", label="8")
    assert newest_answer(told, None) == Newest("After retraining", confidence="should be 8")
    learned = Told(state="learned", was="4", label="8", digest="d", after="8", after_confidence=0.9, version="v3")
    assert newest_answer(learned, None) == Newest("The new checkpoint", "8", "90.0 %", "v3", "good")
    live = newest_answer(learned, Again("4", 0.6, "v3"))
    assert live == Newest("Now, live", "4", "60.0 %", "v3", "bad")
