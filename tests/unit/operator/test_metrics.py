"""What the operator counts, by what really happened, and how it knows that its watches are heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from continual_operator.deps import NOT_LOOKED_YET
from continual_operator.kubernetes.handlers import LONGEST_SILENCE_SECONDS, proven_heard
from continual_operator.kubernetes.hearing import Hearing
from continual_operator.kubernetes.installed import GROUP, INDEX, InstalledCrd
from continual_operator.metrics import OperatorMetrics
from continual_operator.rehearsal import Rehearsal
from continual_operator.safety import SCHEMA

Stage = Callable[..., Rehearsal]


def value(metrics: OperatorMetrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"continual_operator_{name}", labels)
    return 0.0 if found is None else found


def test_every_decision_is_counted_once(stage: Stage) -> None:
    """By action and reason, as the ledger has them."""
    play = stage()
    play.serve_first()
    metrics = play.deps.metrics
    assert value(metrics, "decisions_total", action="Train", reason="Bootstrap") == 1
    assert value(metrics, "decisions_total", action="Promote", reason="FirstVersion") == 1


def test_looks_are_counted_with_their_duration_and_errors_by_reason() -> None:
    metrics = OperatorMetrics()
    metrics.looked(timedelta(seconds=0.2))
    metrics.looked(timedelta(seconds=0.3), "StoreUnavailable")
    assert value(metrics, "reconciles_total", outcome="done") == 1
    assert value(metrics, "reconciles_total", outcome="failed") == 1
    assert value(metrics, "errors_total", reason="StoreUnavailable") == 1
    assert value(metrics, "reconcile_seconds_sum") == pytest.approx(0.5)


def test_two_operators_in_one_process_count_apart() -> None:
    """A registry of its own: nothing global, and no collision."""
    first, second = OperatorMetrics(), OperatorMetrics()
    first.asked("get", "2xx")
    assert value(first, "api_requests_total", verb="get", code="2xx") == 1
    assert value(second, "api_requests_total", verb="get", code="2xx") == 0


# Watches --------------------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_a_list_told_first_is_due_from_the_watch() -> None:
    """Silence grows until the watch tells of that version or a later one; what is gone is due no more."""
    clock = Clock()
    hearing = Hearing(clock)
    assert hearing.silence_seconds() == 0
    hearing.expect("a", 7)
    hearing.expect("b", 8)
    clock.now = 60
    hearing.expect("a", 9)  # listed again: it has been due since the first time
    hearing.heard("a", 6)  # older than what was listed
    assert hearing.silence_seconds() == 60
    hearing.heard("a", 7)
    hearing.forget("b")
    assert hearing.silence_seconds() == 0


def test_the_probe_fails_when_a_watch_is_deaf() -> None:
    """Although lists go on: liveness proves the watches, not only the process."""
    proven_heard(LONGEST_SILENCE_SECONDS)
    with pytest.raises(Exception, match="a watch has not told of a change for 151 s"):
        proven_heard(LONGEST_SILENCE_SECONDS + 1)


# The installed CRD ----------------------------------------------------------------------------------------------------------


class Documents:
    """What the API server would answer, and how often it was asked for which."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema, self.hash, self.asked = schema, "1", list[str]()

    async def document(self, path: str) -> Any:
        self.asked.append(path)
        if path == INDEX:
            return {"paths": {GROUP: {"serverRelativeURL": f"/openapi/v3/{GROUP}?hash={self.hash}"}}}
        return {"components": {"schemas": {SCHEMA: self.schema}}}


def test_under_an_old_crd_nothing_is_done_and_everything_says_so(stage: Stage) -> None:
    """O11: condition, event, metric; no child, no key. With the new CRD it goes on; the document is read once per hash."""
    play = stage()
    documents: Any = Documents({"properties": {}})
    crd = InstalledCrd(documents, play.deps)
    assert play.deps.refusal == NOT_LOOKED_YET
    play.look()
    assert (play.cluster.events, play.status.conditions) == ([], ())
    for _ in range(3):
        asyncio.run(crd.check())
        play.look()
    assert documents.asked.count(INDEX) == 3
    assert len(documents.asked) == 4
    assert play.cluster.objects == {}
    [ready] = play.status.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "False", "InstalledCRDOutdated")
    assert "apply the CRD of this operator's version" in ready.message
    assert [(kind, reason) for kind, reason, _ in play.cluster.events] == [("Warning", "InstalledCRDOutdated")]
    assert value(play.deps.metrics, "refusing") == 1
    documents.schema, documents.hash = {"x-kubernetes-preserve-unknown-fields": True}, "2"
    asyncio.run(crd.check())
    play.settle()
    assert play.cluster.jobs()
    assert value(play.deps.metrics, "refusing") == 0
