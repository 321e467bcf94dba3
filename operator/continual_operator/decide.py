"""What to record next: one pure function from an observation and the time to a plan.

A pass does two things, and this module keeps them apart. `converge` lists what must be done for the world to be what the *recorded* status
says; then the judges look at the world as it is and may write the next status. What they decide is acted on in the next
pass, which comes at once. So there is one write per pass, every decision is durable before it acts, and an operator killed
anywhere repeats nothing that matters and forgets nothing that was decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from continual_contract.artifacts import DataList

from continual_operator import judges
from continual_operator.conditions import show
from continual_operator.converge import Action, converge
from continual_operator.draft import Draft
from continual_operator.observation import Observation
from continual_operator.rollout import advance
from continual_operator.settings import OperatorSettings
from continual_operator.status import Status, material
from continual_operator.training import collect, retrain
from continual_operator.verbs import hold_pin, obey

AT_ONCE = timedelta(milliseconds=50)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to record, and when to look again."""

    actions: tuple[Action, ...]
    status: Status
    data_lists: tuple[DataList, ...]
    """To be stored before the status is written: it names their digests."""
    decided: bool
    """Something was decided: write the status now, look again at once."""
    moving: bool
    """Something is under way: look again soon."""


def decide(obs: Observation, now: datetime, settings: OperatorSettings) -> Plan:
    """Compose the judges over one observation. Same values in, same plan out."""
    actions = converge(obs, settings)
    draft = Draft(obs, now, obs.status)
    if not obs.model.spec.suspend and obs.redis_ok:
        draft = _think(draft)
    draft = show(_tidy(draft))
    decided = material(draft.status) != material(obs.status)
    return Plan(actions, draft.status, draft.data_lists, decided, decided or bool(actions) or _moving(draft))


def _think(draft: Draft) -> Draft:
    """People first, then results, then the versions in flight, then whether to train again."""
    for step in (obey, collect, hold_pin, advance, retrain):
        draft = step(draft)
    return draft


def _tidy(draft: Draft) -> Draft:
    """Versions beyond retention leave the status; live ones, the pinned and the latest never do."""
    status, retention = draft.status, draft.spec.retention.versions
    if len(status.versions) <= retention:
        return draft
    records = tuple((r.version, r.digest, r.parent) for r in status.versions)
    kept = judges.garbage(records, needed_versions(draft.spec.rollout.pinned_version, status), retention)
    return draft.to(versions=tuple(r for r in status.versions if r.version in kept.versions))


def needed_versions(pinned: str | None, status: Status) -> frozenset[str]:
    """Live, canary, waiting, pinned, and the last one that served before: what a rollback needs."""
    stable = status.stable.version if status.stable else None
    previous = next((r.version for r in reversed(status.versions) if r.served and r.version != stable), None)
    waiting = status.waiting.version if status.waiting else None
    return frozenset(v for v in (*status.live, previous, waiting, pinned) if v is not None)


def kept_digests(obs: Observation) -> frozenset[str]:
    """Digests in the store that garbage collection must not touch."""
    status = obs.status
    records = tuple((r.version, r.digest, r.parent) for r in status.versions)
    needed = needed_versions(obs.model.spec.rollout.pinned_version, status)
    kept = judges.garbage(records, needed, obs.model.spec.retention.versions).digests
    training = (
        status.training.inputs if status.training and status.training.in_flight and status.training.inputs else {}
    )
    return kept | {d for d in (training.get("parent"), training.get("data")) if isinstance(d, str)}


def _moving(draft: Draft) -> bool:
    status, retrained = draft.status, draft.status.retrained
    return (
        status.canary is not None
        or status.probation is not None
        or status.waiting is not None
        or (status.training is not None and status.training.in_flight)
        or status.stable is None
        or draft.obs.ready(status.stable.version) < status.stable.replicas
        or bool(retrained.correction_seen)
        or retrained.drift_evidence != retrained.drift_handled
        or bool(status.outbox)
    )
