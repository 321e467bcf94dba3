"""The status of a ContinualModel: the pointer of record.

Whatever must survive a restart of the operator to decide the same again is in here, and nowhere else: the live versions and the
stage each is in, the queue of candidates, the alpha budget, failures, quarantine, handled verbs. A decision is written here first and
acted on in the next pass, so an operator that dies anywhere finds either the old decision or the new one, never half of one.

Numbers that only inform (accuracy, labels, backlog, ready replicas, progress) lie in the same document, for people;
`material` strips them, so that a reconcile knows whether anything was decided.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from continual_operator.ledger import LedgerEntry

Phase = Literal[
    "Training", "Candidate", "Shadow", "Canary", "Probation", "Stable", "Retired", "Rejected", "RolledBack", "Failed"
]
Stage = Literal["Starting", "Judging", "Promoting"]

MAX_DECISIONS = 50
MAX_QUARANTINE = 200
MAX_ATTEMPTED = 100


class Part(BaseModel):
    """Immutable, camelCase outside; unknown fields of a newer operator are dropped, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Condition(Part):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: datetime


class Accuracy(Part):
    """Three decimals, as text: what `kubectl get` prints."""

    value: str
    lower: str
    upper: str


class Evidence(Part):
    """The paired evidence as people see it; wealths as the level they would reject at (1/wealth)."""

    pairs: int = 0
    mean_gain: str = "0.000"
    lower: str = "0.000"
    upper: str = "0.000"
    discordant: int = 0
    coverage_percent: str | None = None
    promote_p: str = "1.000"
    rollback_p: str = "1.000"
    class_veto_p: str = "1.000"
    verdict: str = ""
    reason: str = ""
    message: str = ""


class Block(Part):
    """What every live version shows."""

    version: str
    digest: str
    weight: int = 0
    ready_replicas: int = 0
    accuracy: Accuracy | None = None
    labels: int = 0


class Stable(Block):
    since: datetime
    """When it became stable."""
    drift_since: str | None = None
    """Request id after which its labels count for drift."""
    replicas: int = 0
    """Desired pods; kept so that autoscaling remembers what it decided."""
    low_since: datetime | None = None
    """Since when the backlog has asked for fewer pods."""


class Canary(Block):
    stage: Stage = "Starting"
    baseline: str
    evidence_id: str
    alpha: float
    """α_j of this candidate."""
    salt: str
    step: int = 0
    started: datetime
    """When the pods were ordered, then when the shadow began."""
    step_since: datetime
    unready_since: datetime | None = None
    """Since when no pod of it is Ready; None while one is."""
    excused_restarts: int = 0
    """Restarts while stable's pods fared the same: not its fault."""
    since: str | None = None
    """Request id after which pairs count; None until it is routed."""
    cycles: int = 0
    """Whole gate cycles looked at."""
    approved: bool = False
    forced: bool = False
    restore: bool = False
    """An earlier version put back by hand: no probation after it."""
    evidence: Evidence | None = None
    observed_verdict: str = ""
    """Mode Observe: the last verdict recorded and not acted on."""


class ProbationStatus(Block):
    """`version` is the promoted one; `previous` stays warm and shadow-scores."""

    previous: str
    previous_digest: str
    evidence_id: str
    salt: str
    started: datetime
    since: str | None = None
    evidence: Evidence | None = None
    observed_verdict: str = ""


class VersionRecord(Part):
    version: str
    digest: str
    phase: Phase
    created: datetime
    job: str = ""
    trigger: str = ""
    parent: str | None = None
    accuracy: str | None = None
    """On the holdout."""
    trained_through: int = 0
    served: bool = False
    """Has been stable: what a rollback by hand may go back to."""
    reason: str = ""
    message: str = ""


class Waiting(Part):
    """A version that passed the offline gate and waits for its turn."""

    version: str
    digest: str
    since: datetime
    trigger: str = ""
    direct: bool = False
    """Straight into probation (instantCorrections: Promote)."""
    forced: bool = False


class Progress(Part):
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    loss: str = ""
    accuracy: str = ""


class Training(Part):
    """One in flight. `inputs` is the Job's argument, frozen when it was decided."""

    state: Literal["Pending", "Running", "Importing", "Succeeded", "Failed", "Cancelled"]
    job: str
    trigger: str
    reason: str = ""
    message: str = ""
    started: datetime
    ended: datetime | None = None
    inputs: dict[str, Any] | None = None
    progress: Progress | None = None
    job_uid: str = ""
    """Of the Job that was seen last …"""
    job_failures: int = 0
    """… how many of its pods failed …"""
    spent: int = 0
    """… and what Jobs before it used up of the failure budget: deleting a Job gives nothing back."""
    summary: str = ""
    """State, epochs or trouble: what `kubectl get` shows."""

    @property
    def in_flight(self) -> bool:
        return self.state in {"Pending", "Running", "Importing"}

    def ended_as(
        self, state: Literal["Succeeded", "Failed", "Cancelled"], reason: str, message: str, now: datetime
    ) -> Training:
        """Over: what was counted on the way is of no more use."""
        return Training(
            state=state, job=self.job, trigger=self.trigger, reason=reason, message=message[:300], started=self.started,
            ended=now, inputs=self.inputs,
        )  # fmt: skip

    @property
    def tries_used(self) -> int:
        """By Jobs that are gone, were the last one gone too: one that vanishes before its end counts as a failure."""
        return self.spent + (self.job_failures + 1 if self.job_uid else 0)


class AlphaBudget(Part):
    """e-LOND: α_j = α·(promotions + 1) / (j(j+1)) within one period of 30 days."""

    period_start: datetime
    started: int = 0
    promotions: int = 0


class Retrained(Part):
    """What the triggers must remember."""

    starts: tuple[datetime, ...] = ()
    """Starts of the last 24 hours, bootstrap excluded."""
    ended: datetime | None = None
    failures: int = 0
    """Failed or rejected in a row."""
    failures_generation: int = 0
    attempted: tuple[str, ...] = ()
    """`<hash of parent, data, mode>:ok` or `:failed` of trainings that have ended: none is repeated unasked."""
    corrections: tuple[str, ...] = ()
    """Digests of correction shards that have been trained."""
    correction_seen: tuple[str, ...] = ()
    """Correction shards waiting for their batch to close."""
    correction_since: datetime | None = None
    trained_through: int = 0
    """Highest shard sequence of an ended training, accepted or not."""
    schedules: dict[str, datetime] = Field(default_factory=dict)
    """Last handled time of each schedule."""
    drift_evidence: str = ""
    """`<version>/<alarms>` of the newest alarm seen …"""
    drift_sequence: int = 0
    """… and the highest shard sequence at that moment: only later shards hold the drifted world."""
    drift_handled: str = ""


class DecisionLine(Part):
    """One line of the ledger as the resource shows it; the whole entry is in the store under `sequence`."""

    sequence: int
    time: datetime
    action: str
    reason: str
    message: str = ""
    version: str = ""
    by: str = "operator"


class Status(Part):
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    classes: tuple[str, ...] = ()
    """Accepted classes: append-only is checked against them."""
    uid: str = ""
    stable: Stable | None = None
    canary: Canary | None = None
    probation: ProbationStatus | None = None
    next: Canary | None = None
    """supersede: Replace — the newer candidate whose pods are starting while `canary` is still judged."""
    waiting: Waiting | None = None
    """Only the newest waits."""
    versions: tuple[VersionRecord, ...] = ()
    training: Training | None = None
    retrained: Retrained = Retrained()
    alpha: AlphaBudget | None = None
    quarantine: tuple[str, ...] = ()
    handled: dict[str, str] = Field(default_factory=dict)
    last_version: int = 0
    group_generation: int = 0
    """Largest routing generation seen: `route` never goes below it, so group names stay unique after FLUSHALL."""
    rollouts: int = 0
    """Rollouts started: numbers evidence and salts."""
    trained_through: int = 0
    """Shards up to here are in the stable version."""
    backlog: int = 0
    replicas: int = 0
    selector: str = ""
    decisions: tuple[DecisionLine, ...] = ()
    ledger_sequence: int = 0
    """Last sequence given; entries in the store beyond it were never decided."""
    outbox: tuple[LedgerEntry, ...] = ()
    """Entries not yet in the store: written again until they are."""

    def replaced(self, **changes: Any) -> Status:
        return self.model_copy(update=changes)

    def record(self, version: str) -> VersionRecord | None:
        return next((record for record in self.versions if record.version == version), None)

    def with_phase(self, version: str, phase: Phase, reason: str = "", message: str = "") -> Status:
        """The same, with the version in another phase of its life."""
        change = {"phase": phase, "reason": reason, "message": message}
        return self.replaced(
            versions=tuple(r.model_copy(update=change) if r.version == version else r for r in self.versions)
        )

    @property
    def live(self) -> tuple[str, ...]:
        """Versions that have, or shall have, pods and are not on their way out."""
        names = (
            self.stable and self.stable.version,
            self.canary and self.canary.version,
            self.next and self.next.version,
            self.probation and self.probation.previous,
        )
        return tuple(dict.fromkeys(name for name in names if name))

    def to_dict(self) -> dict[str, Any]:
        """As it lies in the resource: camelCase, no empty optionals."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def parse_status(raw: dict[str, Any] | None) -> Status:
    """Read a status; an empty one is a new model's."""
    return Status.model_validate(raw or {})


_BLOCK_NUMBERS: dict[str, Any] = {"ready_replicas": 0, "accuracy": None, "labels": 0}


BlockT = TypeVar("BlockT", bound=Block)


def _bare(block: BlockT | None) -> BlockT | None:
    if block is None:
        return None
    extra: dict[str, Any] = {} if isinstance(block, Stable) else {"evidence": None}
    return block.model_copy(update={**_BLOCK_NUMBERS, **extra})


def material(status: Status) -> Status:
    """The status without the numbers that only inform: equal means nothing was decided."""
    training = status.training and status.training.model_copy(update={"progress": None, "summary": ""})
    conditions = tuple(c.model_copy(update={"message": ""}) for c in status.conditions)
    return status.replaced(
        stable=_bare(status.stable),
        canary=_bare(status.canary),
        next=_bare(status.next),
        probation=_bare(status.probation),
        training=training,
        conditions=conditions,
        backlog=0,
    )
