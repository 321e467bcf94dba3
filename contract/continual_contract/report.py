"""What the evaluator tells the operator: one document with a sequence number, in the hash `report`.

Numbers only, no verdicts: the operator's pure judges decide. Wealths are natural logarithms of e-processes
(Waudby-Smith & Ramdas, arXiv 2010.09686); a wealth of log(1/α) or more is evidence at level α whenever one looks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from continual_contract.artifacts import Frozen


class VersionScores(Frozen):
    """One version's answers, joined with labels of the gate's sources."""

    version: str
    answers: int = 0
    """Published predictions of this version seen."""
    labels: int = 0
    correct: int = 0
    accuracy: float | None = None
    lower: float | None = None
    upper: float | None = None
    """95 % Wilson interval of accuracy."""
    recent_labels: int = 0
    recent_accuracy: float | None = None
    """Over the last `recent_labels` (≤ 500) labels: prequential, what triggers and pictures use."""
    per_class_labels: dict[str, int] = Field(default_factory=dict)
    per_class_recall: dict[str, float] = Field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = Field(default_factory=dict)
    """true class → predicted class → count."""
    error_rate: float = 0.0
    """Dead letters ÷ (dead letters + answers) of this version."""
    worker_us_p95: float | None = None
    """95th percentile of worker time per image, microseconds, over the last 1000 answers."""


class ClassEvidence(Frozen):
    labels: int
    mean_gain: float
    log_wealth: float
    """Evidence that this class lost more than the worst-class margin."""


class PairEvidence(Frozen):
    """The paired evidence of one pair under judgement."""

    evidence_id: str
    purpose: Literal["canary", "probation"]
    candidate: str
    baseline: str
    margin: float
    worst_class_margin: float
    pairs: int
    """Observations (clusters of equal `k` count once)."""
    requests: int
    """Labelled requests behind them."""
    mean_gain: float
    gain_lower: float
    gain_upper: float
    """95 % always-valid confidence sequence of the mean gain."""
    log_wealth_not_inferior: float
    """E of the promotion test."""
    log_wealth_worse: float
    """R of the rollback test."""
    log_wealth_class_veto: float
    """G of the class veto."""
    classes: dict[str, ClassEvidence] = Field(default_factory=dict)
    wins: int
    losses: int
    """Pairs with D > 0 and D < 0; their sum over pairs is the discordance."""
    coverage_percent: float | None = None
    """Labelled ÷ audited, among requests older than the window; None until one is."""
    substituted: int = 0
    """Answers by heirs, left out of the evidence and counted against coverage."""
    first_pair_ms: int | None = None
    last_pair_ms: int | None = None
    evidence_digest: str | None = None
    """Digest of the ordered pairs in the store up to now."""
    evidence_objects: tuple[str, ...] = ()


class DriftState(Frozen):
    """The label-based detector (e-detector, Shin, Ramdas, Rinaldo, arXiv 2203.03532, Shiryaev-Roberts form)."""

    version: str
    armed: bool
    labels: int
    baseline_error: float | None = None
    """p0: one-sided 90 % Wilson upper bound of the first labels' error."""
    log_statistic: float = 0.0
    log_threshold: float = 0.0
    alarms: int = 0
    last_alarm_request: str | None = None
    last_alarm_labels: int | None = None
    """How many labels since the watch's start had counted at the last alarm."""
    second_opinion: bool = False
    """River's ADWIN over the same errors has fired since the watch's start."""


class SignalState(Frozen):
    """Label-free signals: they may ask for labels, never promote."""

    windows: int = 0
    confidence_ks: float | None = None
    class_chi2_p: float | None = None
    flagged: bool = False


class ShardRef(Frozen):
    digest: str
    sequence: int
    samples: int
    per_class: dict[str, int] = Field(default_factory=dict)
    kind: Literal["train", "holdout", "correction"]


class LossState(Frozen):
    undelivered: int = 0
    pending: int = 0
    tail: bool = False
    readded: int = 0


class LabelQueueState(Frozen):
    received: int = 0
    counted: int = 0
    waiting: int = 0
    """Labels whose request is not answered yet."""
    unknown: int = 0
    """Labels whose request id or class nobody knows: kept as dead labels, counted."""
    throttled: int = 0
    late: int = 0
    unsampled: int = 0
    """Labels of requests outside `feedback.samplePercent`: their answers are not kept."""
    top_throttled: tuple[str, ...] = ()


class Report(Frozen):
    """Everything the operator decides from, but for the cluster's own objects."""

    seq: int
    time_ms: int
    config_sequence: int
    uid: str
    versions: dict[str, VersionScores] = Field(default_factory=dict)
    pair: PairEvidence | None = None
    drift: DriftState | None = None
    signals: SignalState = SignalState()
    shards: tuple[ShardRef, ...] = ()
    """Closed shards not yet trained (sequence > config.trained_through) and the holdout's newest 5000 samples."""
    released_samples: int = 0
    """Training samples in `shards` of kind train."""
    backlog: int = 0
    """Undelivered + pending of the group that lags most among owners."""
    lag_seconds: dict[str, float] = Field(default_factory=dict)
    """Per version: age of the oldest entry not yet answered by its group."""
    dead: int = 0
    loss: LossState = LossState()
    labels: LabelQueueState = LabelQueueState()
