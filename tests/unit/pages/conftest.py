"""Snapshots as the gateway reads them, built from the contract's own models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from continual_contract.history import HistoryPoint, VersionPoint
from continual_contract.report import ClassEvidence, PairEvidence, Report, VersionScores
from continual_gateway.views.snapshot import Snapshot

NOW_MS = 1_800_000_000_000
STARTED = "2027-01-15T07:58:00Z"
"""Two minutes before NOW_MS."""


def document(**status: Any) -> dict[str, Any]:
    """A digits model with the gate of the fast example."""
    return {
        "metadata": {"name": "digits", "namespace": "team", "uid": "u", "creationTimestamp": "2027-01-14T08:00:00Z"},
        "spec": {
            "model": {"architecture": "lenet5", "input": {"height": 28, "width": 28, "channels": 1}, "classes": ["0", "1", "2"]},
            "rollout": {
                "steps": [{"weight": 0, "hold": "5s"}, {"weight": 10, "hold": "10s"}],
                "gate": {"margin": 0.03, "minLabels": 100, "minDuration": "10s"},
            },
        },
        "status": status,
    }  # fmt: skip


def ready(**more: Any) -> dict[str, Any]:
    """A status with v1 serving."""
    return {
        "conditions": [{"type": "Ready", "status": "True", "reason": "AsExpected", "message": "v1 serves"}],
        "stable": {"version": "v1", "digest": "sha256:" + "a" * 64, "weight": 100, "readyReplicas": 1, "labels": 40},
        "versions": [record("v1", "a", "Stable", served=True)],
        **more,
    }


def record(version: str, letter: str, phase: str, **more: Any) -> dict[str, Any]:
    return {
        "version": version, "digest": "sha256:" + letter * 64, "phase": phase, "created": "2027-01-15T07:00:00Z",
        "trigger": "Bootstrap", "job": "j", "accuracy": "0.984", "reason": "", "message": "", **more,
    }  # fmt: skip


def canary(**more: Any) -> dict[str, Any]:
    """A status in which v2 is judged against v1."""
    block = {
        "version": "v2", "digest": "sha256:" + "b" * 64, "baseline": "v1", "weight": 10, "readyReplicas": 1, "stage": "Judging",
        "step": 1, "alpha": 0.025, "started": STARTED, "since": "1-0", "salt": "s", "evidenceId": "v2-canary-1",
        "evidence": {"verdict": "Inconclusive", "reason": "TooFewLabels", "message": "60 of 100 labelled pairs"}, **more,
    }  # fmt: skip
    versions = [record("v1", "a", "Stable", served=True), record("v2", "b", "Canary", parent="sha256:" + "a" * 64)]
    return ready(canary=block, versions=versions)


def pair(**more: Any) -> PairEvidence:
    values: dict[str, Any] = {
        "evidence_id": "v2-canary-1", "purpose": "canary", "candidate": "v2", "baseline": "v1", "margin": 0.03,
        "worst_class_margin": 0.05, "pairs": 60, "requests": 60, "mean_gain": 0.01, "gain_lower": -0.04, "gain_upper": 0.06,
        "log_wealth_not_inferior": 1.2, "log_wealth_worse": -0.3, "log_wealth_class_veto": 0.1, "wins": 3, "losses": 2,
        "coverage_percent": 97.0, "classes": {"1": ClassEvidence(labels=20, mean_gain=-0.05, log_wealth=0.1)},
    }  # fmt: skip
    return PairEvidence(**(values | more))


def report(**more: Any) -> Report:
    versions = {
        "v1": VersionScores(version="v1", answers=900, labels=400, correct=380, accuracy=0.95, lower=0.92, upper=0.97, worker_us_p95=500.0),
        "v2": VersionScores(version="v2", answers=120, labels=60, correct=58, accuracy=0.967, lower=0.88, upper=0.99, worker_us_p95=600.0),
    }  # fmt: skip
    values: dict[str, Any] = {"seq": 1, "time_ms": NOW_MS - 500, "config_sequence": 1, "uid": "u", "versions": versions}
    return Report(**(values | more))


def point(second: int, **versions: VersionPoint) -> HistoryPoint:
    return HistoryPoint(time_ms=NOW_MS - 600_000 + second * 1000, versions=versions)


@pytest.fixture
def snapshot() -> Callable[..., Snapshot]:
    """`snapshot(status, report=…)`."""

    def make(status: dict[str, Any], **more: Any) -> Snapshot:
        return Snapshot(document(**status), NOW_MS, **more)

    return make


@pytest.fixture
def worlds() -> Any:
    """The builders of this module, for tests that need several."""
    from types import SimpleNamespace

    return SimpleNamespace(
        document=document, ready=ready, record=record, canary=canary, pair=pair, report=report, point=point, now_ms=NOW_MS,
        started=STARTED,
    )  # fmt: skip
