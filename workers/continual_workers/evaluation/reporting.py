"""The evaluator's report: everything the operator decides from, in one document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from continual_contract.report import LabelQueueState, LossState, PairEvidence, Report, ShardRef

from continual_workers.evaluation.source import Groups
from continual_workers.evaluation.state import State

HOLDOUT_SAMPLES = 5000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is not the evaluator's own: the groups, the dead letters and the counters of losses."""

    groups: Groups
    dead: int = 0
    alarms: Mapping[str, int] = field(default_factory=dict)


def build_report(state: State, surroundings: Surroundings, seq: int) -> Report:
    """The report as of now; equal states give equal reports but for `seq`, `time_ms` and the surroundings."""
    orders, groups = state.orders, surroundings.groups
    shards = listed_shards(
        (listed.ref for listed in state.tables.shards.rows.values() if not listed.gate), orders.trained_through
    )
    return Report(
        seq=seq,
        time_ms=groups.time_ms,
        config_sequence=orders.sequence,
        uid=orders.uid,
        versions={version: tally.scores(version) for version, tally in sorted(state.tallies.items())},
        pair=_pair(state),
        drift=state.watch.report() if state.watch else None,
        signals=state.signals.report(),
        shards=shards,
        released_samples=sum(ref.samples for ref in shards if ref.kind == "train"),
        backlog=groups.backlog,
        lag_seconds=dict(groups.lag_seconds),
        dead=surroundings.dead,
        loss=_loss(surroundings.alarms),
        labels=_labels(state),
    )


def _pair(state: State) -> PairEvidence | None:
    pair = state.pair
    if pair is None:
        return None
    first = pair.first_population_ms
    return pair.evidence(len(state.orders.classes), first is not None and state.is_over(first))


def listed_shards(refs: Iterable[ShardRef], trained_through: int) -> tuple[ShardRef, ...]:
    """Shards not yet trained, by sequence, and of the holdout the newest that hold 5000 samples."""
    ordered = sorted(refs, key=lambda ref: ref.sequence)
    fresh = {ref.sequence for ref in ordered if ref.kind != "holdout" and ref.sequence > trained_through}
    samples = 0
    for ref in reversed([ref for ref in ordered if ref.kind == "holdout"]):
        if samples >= HOLDOUT_SAMPLES:
            break
        samples += ref.samples
        fresh.add(ref.sequence)
    return tuple(ref for ref in ordered if ref.sequence in fresh)


def _loss(alarms: Mapping[str, int]) -> LossState:
    return LossState(
        undelivered=alarms.get("lost_undelivered", 0),
        pending=alarms.get("lost_pending", 0),
        tail=alarms.get("lost_tail", 0) > 0,
        readded=alarms.get("readded", 0),
    )


def _labels(state: State) -> LabelQueueState:
    counts = state.labels
    return LabelQueueState(
        received=counts.received,
        counted=counts.counted,
        waiting=state.waiting,
        unknown=counts.unknown,
        throttled=counts.throttled,
        late=counts.late,
        unsampled=counts.unsampled,
        top_throttled=state.quota.top_throttled(),
    )
