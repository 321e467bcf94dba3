"""What the operator tells the evaluator: key `config`, one JSON, fenced by the operator's token.

A changed margin, worst-class margin or evidence id starts new evidence; everything else applies from the next label on.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from continual_contract.artifacts import Frozen, InputShape


class ServedVersion(Frozen):
    version: str
    digest: str
    role: Literal["stable", "canary", "probation"]


class PairUnderJudgement(Frozen):
    """Two versions that answer the same requests; D = correct(candidate) − correct(baseline)."""

    evidence_id: str
    """`<candidate>-<canary|probation>-<n>`; a new id starts new evidence at wealth 1."""
    purpose: Literal["canary", "probation"]
    candidate: str
    baseline: str
    since: str
    """Only requests with an id greater than this (the `after` of the epoch that began the pair)."""
    margin: float
    worst_class_margin: float


class DriftWatch(Frozen):
    version: str
    since: str
    """Labels of requests after this id count (after the verdict that made the version stable)."""
    false_alarm_every: float
    """A: expected labels between false alarms."""


class EvaluatorConfig(Frozen):
    """The evaluator's orders."""

    uid: str
    token: int
    sequence: int
    """Grows with every change; the report echoes it."""
    classes: tuple[str, ...]
    input: InputShape
    salt: str
    """Salt of audit and sample membership."""
    window_seconds: float
    sample_percent: float = 100.0
    audit_percent: float = 5.0
    holdout_percent: float = 10.0
    gate_sources: tuple[str, ...] = ("audit", "truth")
    labeler_quota_per_hour: int = 100_000
    """Labels of one labeler per hour that count; the rest is throttled and shown."""
    versions: tuple[ServedVersion, ...] = ()
    pair: PairUnderJudgement | None = None
    drift: DriftWatch | None = None
    trained_through: int = 0
    """Shards up to this sequence number are in the stable version: the report stops listing them."""
    requests_max_age_seconds: float = 172_800.0
    requests_max_bytes: int = 2 << 30
    predictions_max_age_seconds: float = 172_800.0
    archive: bool = False
    shard_samples: int = Field(default=500, ge=1)
    shard_seconds: float = 30.0
