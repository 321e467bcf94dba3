"""Buttons are offered where the operator would obey them; rows carry digest, lineage and scores."""

from __future__ import annotations

from typing import Any

import pytest
from continual_contract.errors import UsageError
from continual_contract.report import VersionScores
from continual_gateway.errors import status_of
from continual_gateway.pages.steering import NEEDS_VERSION, wish
from continual_gateway.views.classes import classes
from continual_gateway.views.versions import conditions, decisions, versions
from continual_operator import labels


def verbs_of(view: Any, version: str) -> tuple[str, ...]:
    return next(row.verbs for row in view if row.version == version)


def test_each_version_gets_the_verbs_that_are_possible_now(snapshot: Any, worlds: Any) -> None:
    """The canary may be promoted or rejected, stable pinned, a rolled-back digest only readmitted."""
    status = worlds.canary()
    bad = worlds.record("v3", "c", "RolledBack")
    status |= {"versions": [*status["versions"], bad], "quarantine": [bad["digest"]]}
    rows = versions(snapshot(status))
    assert verbs_of(rows, "v2") == ("promote", "reject")
    assert verbs_of(rows, "v1") == ("pin",)
    assert verbs_of(rows, "v3") == ("readmit",)
    assert [row.version for row in rows] == ["v3", "v2", "v1"]


def test_a_gate_that_waits_for_a_person_offers_approval(snapshot: Any, worlds: Any) -> None:
    status = worlds.canary(evidence={"verdict": "Inconclusive", "reason": "AwaitingApproval"})
    assert verbs_of(versions(snapshot(status)), "v2") == ("approve", "reject")


def test_lineage_names_the_parents_version(snapshot: Any, worlds: Any) -> None:
    rows = versions(snapshot(worlds.canary()))
    assert rows[0].parent == "v1"
    assert rows[0].digest == "bbbbbbbbbbbb"


def test_the_version_on_probation_is_called_so(snapshot: Any, worlds: Any) -> None:
    status = worlds.ready(probation={"version": "v1", "previous": "v0"})
    assert versions(snapshot(status))[0].phase == "Probation"


def test_the_ledger_is_newest_first_and_tells_people_from_the_operator(snapshot: Any, worlds: Any) -> None:
    lines = [
        {"sequence": 1, "time": worlds.started, "action": "Accept", "reason": "OfflineGatePassed", "version": "v1"},
        {"sequence": 2, "time": worlds.started, "action": "Force", "reason": "Forced", "version": "v2", "by": "person"},
    ]
    rows = decisions(snapshot(worlds.ready(decisions=lines)))
    assert [(row.sequence, row.by, row.tone) for row in rows] == [(2, "person", "warn"), (1, "operator", "good")]


@pytest.mark.parametrize(
    ("kind", "status", "reason", "tone"),
    [
        ("Ready", "True", "AsExpected", "good"), ("Ready", "False", "NoReadyPods", "warn"), ("Degraded", "False", "AsExpected", "good"),
        ("Degraded", "True", "DeadLetters", "warn"), ("Training", "False", "Trained", "idle"), ("CanaryHealthy", "Unknown", "NoCanary", "idle"),
    ],
)  # fmt: skip
def test_a_condition_is_good_or_bad_by_its_kind(
    snapshot: Any, worlds: Any, kind: str, status: str, reason: str, tone: str
) -> None:
    listed = [{"type": kind, "status": status, "reason": reason}]
    assert conditions(snapshot(worlds.ready(conditions=listed)))[0].tone == tone


def test_the_matrix_counts_rows_as_true_classes(snapshot: Any, worlds: Any) -> None:
    """Three twos answered as ones: in row 2, column 1, and first among the confusions."""
    scores = VersionScores(version="v1", labels=23, correct=20, confusion={"2": {"1": 3, "2": 5}, "0": {"0": 15}})
    view = classes(snapshot(worlds.ready(), report=worlds.report(versions={"v1": scores})))
    assert view.matrix[2][1].count == 3
    assert (view.matrix[2][2].right, view.matrix[2][1].right) == (True, False)
    assert (view.worst[0].true, view.worst[0].answered, view.worst[0].share) == ("2", "1", "38 %")


@pytest.mark.parametrize("verb", ["retrain", "rollback", "cancel", "promote", "approve", "reject", "readmit"])
def test_a_button_writes_the_annotation_that_the_operator_reads(verb: str) -> None:
    """The names are the operator's own, and a version travels with the time, so that asking again is a new wish."""
    asked = wish(verb, "v8", 1_800_000_000_000)
    (name,) = asked.annotations
    assert name in labels.VERBS
    if verb in NEEDS_VERSION:
        assert asked.annotations[name] == "v8@2027-01-15T08:00:00Z"


def test_an_unknown_verb_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a verb") as caught:
        wish("explode", "", 0)
    assert status_of(caught.value) == 400
