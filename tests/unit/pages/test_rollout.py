"""What the page says of a running gate is what the judge looks at, and what is missing is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
from continual_gateway.views.rollout import GATE_DEFAULTS, PROBATION_DEFAULTS, STEP_DEFAULTS, rollout
from continual_operator.spec import Gate, Probation, Rollout


def check(view: Any, name: str) -> Any:
    return next(each for each in view.checks if each.name == name)


def test_an_unfinished_gate_names_what_is_missing(snapshot: Any, worlds: Any) -> None:
    """60 of 100 pairs and too little wealth: both are open, both are in the sentence; what is met is not."""
    view = rollout(snapshot(worlds.canary(), report=worlds.report(pair=worlds.pair())))
    assert (view.kind, view.candidate, view.title) == ("canary", "v2", "v2 against v1")
    assert view.sentence == "Too few labels: 60 of 100 labelled pairs"
    assert [each.name for each in view.checks if each.state == "open"] == ["Labelled pairs", "Evidence for it"]
    assert view.missing[0] == "labelled pairs: 60 of 100"
    assert check(view, "Labelled pairs").share == pytest.approx(0.6)
    assert (view.pairs, view.wins, view.losses) == (60, 3, 2)


@pytest.mark.parametrize(
    ("evidence", "name", "state"),
    [
        ({"log_wealth_not_inferior": math.log(40)}, "Evidence for it", "met"),
        ({"log_wealth_not_inferior": math.log(39)}, "Evidence for it", "open"),
        ({"log_wealth_worse": math.log(20)}, "Evidence against it", "against"),
        ({"log_wealth_worse": math.log(19)}, "Evidence against it", "met"),
        ({"log_wealth_class_veto": math.log(20.1)}, "Worst class", "against"),
        ({"coverage_percent": 94.9}, "Coverage", "open"),
        ({"coverage_percent": None}, "Coverage", "open"),
        ({"coverage_percent": 95.0}, "Coverage", "met"),
    ],
)
def test_each_check_turns_where_the_judge_turns(
    snapshot: Any, worlds: Any, evidence: dict[str, Any], name: str, state: str
) -> None:
    """At level alpha the wealth needed is 1/alpha: 40 for the first candidate's 0.025, 20 for a rollback at 0.05."""
    view = rollout(snapshot(worlds.canary(), report=worlds.report(pair=worlds.pair(**evidence))))
    assert check(view, name).state == state


def test_the_stations_show_where_the_candidate_is(snapshot: Any, worlds: Any) -> None:
    """Step 1 is the 10 % step: pods and shadow are done, the rest lies ahead."""
    view = rollout(snapshot(worlds.canary(), report=worlds.report(pair=worlds.pair())))
    assert [(stop.name, stop.state) for stop in view.stops] == [
        ("Pods", "done"), ("Shadow", "done"), ("10 %", "now"), ("Promoted", "ahead"), ("Probation", "ahead"),
    ]  # fmt: skip
    assert [(side.version, side.weight) for side in view.sides] == [("v1", 90), ("v2", 10)]


def test_evidence_of_another_pair_is_not_shown_as_this_ones(snapshot: Any, worlds: Any) -> None:
    """The report still holds the last candidate's numbers for a moment: they are nobody's evidence."""
    old = worlds.pair(candidate="v9", pairs=500)
    view = rollout(snapshot(worlds.canary(), report=worlds.report(pair=old)))
    assert check(view, "Labelled pairs").have == "0"


def test_a_candidate_before_its_routing_has_no_checks(snapshot: Any, worlds: Any) -> None:
    view = rollout(snapshot(worlds.canary(since=None, evidence=None)))
    assert (view.kind, view.checks) == ("starting", ())
    assert view.sentence == "its pods are starting; it answers nothing yet"


def test_without_redis_the_page_shows_what_the_resource_knows(snapshot: Any, worlds: Any) -> None:
    """No report: verdict and steps come from the status; no number is invented."""
    view = rollout(snapshot(worlds.canary()))
    assert view.sentence.startswith("Too few labels")
    assert check(view, "Coverage").have == "–"
    assert {side.accuracy for side in view.sides} == {"–"}


def test_probation_says_who_returns(snapshot: Any, worlds: Any) -> None:
    block = {
        "version": "v2",
        "previous": "v1",
        "started": worlds.started,
        "digest": "d",
        "evidenceId": "e",
        "salt": "s",
    }
    view = rollout(snapshot(worlds.ready(probation=block), report=worlds.report(pair=worlds.pair(purpose="probation"))))
    assert view.kind == "probation"
    assert "v1 stays warm" in view.sentence
    assert view.stops[-1].state == "now"


@pytest.mark.parametrize(
    ("reason", "stops"),
    [
        ("AccuracyHeld", ["Pods", "Shadow", "10 %", "Promoted", "Probation"]),
        ("InstantCorrection", ["Pods", "Promoted", "Probation"]),
        ("Forced", ["Pods", "Promoted", "Probation"]),
    ],
)
def test_a_step_that_was_not_taken_is_not_shown_as_done(
    snapshot: Any, worlds: Any, reason: str, stops: list[str]
) -> None:
    """A correction that went straight into probation, or a promotion by hand, never passed the steps."""
    block = {
        "version": "v2",
        "previous": "v1",
        "started": worlds.started,
        "digest": "d",
        "evidenceId": "e",
        "salt": "s",
    }
    line = {"sequence": 9, "time": worlds.started, "action": "Probation", "reason": reason, "version": "v2"}
    view = rollout(snapshot(worlds.ready(probation=block, decisions=[line])))
    assert [stop.name for stop in view.stops] == stops


def test_what_the_page_assumes_is_what_the_operator_assumes() -> None:
    """The gate, the probation and the steps of a silent spec are the operator's own defaults."""
    assert _plain(Gate(), GATE_DEFAULTS) == GATE_DEFAULTS
    assert _plain(Probation(), PROBATION_DEFAULTS) == PROBATION_DEFAULTS
    steps = Rollout().model_dump(mode="json", by_alias=True)["steps"]
    assert [dict(step) for step in STEP_DEFAULTS] == [
        {"weight": step["weight"], "hold": step["hold"]} for step in steps
    ]


def _plain(model: Any, wanted: Any) -> dict[str, Any]:
    from continual_gateway.views.text import seconds

    found = model.model_dump(mode="json", by_alias=True)
    same = {name: found[name] for name in wanted}
    return {
        name: wanted[name] if isinstance(value, str) and seconds(value) == seconds(wanted[name]) else value
        for name, value in same.items()
    }
