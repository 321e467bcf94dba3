"""The versions of a model, where each came from, and what may be done with it now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continual_gateway.views import text
from continual_gateway.views.snapshot import Snapshot
from continual_gateway.views.text import Tone

TONES: Mapping[str, Tone] = {
    "Stable": "good", "Probation": "good", "Canary": "busy", "Shadow": "busy", "Candidate": "busy", "Training": "busy",
    "Retired": "idle", "Rejected": "bad", "RolledBack": "bad", "Failed": "bad",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One line of the table. `verbs` are the names of the buttons it gets, the likeliest first."""

    version: str
    phase: str
    tone: Tone
    digest: str
    digest_whole: str
    parent: str
    """`v2`, or the short digest of a parent that is no version, or empty."""
    trigger: str
    holdout: str
    holdout_samples: str
    change: str
    """Against its parent on the same samples, in points."""
    live: str
    labels: str
    created: str
    reason: str
    message: str
    strategy: str
    verbs: tuple[str, ...]


def versions(snapshot: Snapshot) -> tuple[VersionRow, ...]:
    """Newest first."""
    records: list[dict[str, Any]] = [*snapshot.status("versions", ())]
    names = {str(record.get("digest")): str(record.get("version")) for record in records}
    return tuple(_row(snapshot, record, names) for record in reversed(records))


def _row(snapshot: Snapshot, record: Mapping[str, Any], names: Mapping[str, str]) -> VersionRow:
    version, digest = str(record.get("version")), str(record.get("digest", ""))
    manifest = snapshot.manifests.get(digest)
    scores = manifest.scores if manifest else None
    live = snapshot.report.versions.get(version) if snapshot.report else None
    change = scores.accuracy - scores.parent_accuracy if scores and scores.parent_accuracy is not None else None
    parent = str(record.get("parent") or "")
    phase = _phase(snapshot, record)
    return VersionRow(
        version=version,
        phase=text.words(phase),
        tone=TONES.get(phase, "idle"),
        digest=text.short(digest),
        digest_whole=digest,
        parent=names.get(parent) or text.short(parent),
        trigger=text.words(str(record.get("trigger", ""))),
        holdout=text.percent(scores.accuracy if scores else text.number(record.get("accuracy"))),
        holdout_samples=text.count(scores.samples) if scores else "",
        change=text.signed_points(change) if change is not None else "",
        live=text.percent(live.accuracy if live else None),
        labels=text.count(live.labels) if live else "",
        created=str(record.get("created", "")),
        reason=text.words(str(record.get("reason", ""))),
        message=str(record.get("message", "")),
        strategy=manifest.strategy if manifest else "",
        verbs=_verbs(snapshot, record),
    )


def _phase(snapshot: Snapshot, record: Mapping[str, Any]) -> str:
    """The phase of the record; the version on probation is the one that serves."""
    if record.get("version") == snapshot.status("probation.version"):
        return "Probation"
    return str(record.get("phase", ""))


def _verbs(snapshot: Snapshot, record: Mapping[str, Any]) -> tuple[str, ...]:
    """What an admin may ask of this version now; what the operator would ignore is not offered."""
    version, digest = record.get("version"), record.get("digest")
    if snapshot.spec("rollout.pinnedVersion") == version:
        return ("unpin",)
    if version == snapshot.status("canary.version"):
        awaits = snapshot.status("canary.evidence.reason") == "AwaitingApproval"
        return ("approve" if awaits else "promote", "reject")
    if version in {snapshot.status("waiting.version"), snapshot.status("next.version")}:
        return ("promote", "reject")
    if version == snapshot.status("stable.version"):
        return ("pin",)
    if digest in snapshot.status("quarantine", ()):
        return ("readmit",)
    return ("promote", "pin") if record.get("phase") in {"Retired", "Candidate"} else ()


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One line of the ledger."""

    sequence: int
    time: str
    action: str
    reason: str
    message: str
    version: str
    by: str
    tone: Tone


ACTION_TONES: Mapping[str, Tone] = {
    "Promote": "good", "Probation": "good", "Pass": "good", "Accept": "good", "Approve": "good", "Rollback": "bad",
    "Reject": "bad", "TrainingFailed": "bad", "DriftAlarm": "bad", "Ignored": "warn", "Force": "warn", "Pin": "warn",
    "Restore": "warn", "Shadow": "busy", "Canary": "busy", "Step": "busy", "Train": "busy",
}  # fmt: skip


def decisions(snapshot: Snapshot) -> tuple[DecisionRow, ...]:
    """The ledger as the status holds it (the newest fifty), newest first."""
    return tuple(
        DecisionRow(
            sequence=int(line.get("sequence", 0)),
            time=str(line.get("time", "")),
            action=text.words(str(line.get("action", ""))),
            reason=text.words(str(line.get("reason", ""))),
            message=str(line.get("message", "")),
            version=str(line.get("version", "")),
            by=str(line.get("by", "operator")),
            tone=ACTION_TONES.get(str(line.get("action")), "idle"),
        )
        for line in reversed(snapshot.status("decisions", ()))
    )


@dataclass(frozen=True, slots=True)
class ConditionRow:
    kind: str
    tone: Tone
    reason: str
    message: str
    since: str


GOOD_WHEN_FALSE = frozenset({"Degraded", "DataLoss", "Suspended"})


def conditions(snapshot: Snapshot) -> tuple[ConditionRow, ...]:
    return tuple(
        ConditionRow(
            kind=str(c.get("type")),
            tone=_condition_tone(c),
            reason=text.words(str(c.get("reason", ""))),
            message=str(c.get("message", "")),
            since=str(c.get("lastTransitionTime", "")),
        )
        for c in snapshot.status("conditions", ())
    )


def _condition_tone(condition: Mapping[str, Any]) -> Tone:
    kind, status = condition.get("type"), condition.get("status")
    if kind == "Training" and condition.get("reason") != "TooManyFailures":
        return "busy" if status == "True" else "idle"
    if status == "Unknown" or condition.get("reason") in {"Idle", "NoCanary"}:
        return "idle"
    return "good" if (status == "True") != (kind in GOOD_WHEN_FALSE) else "warn"
