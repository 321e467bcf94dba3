"""The writer: one fenced function call per batch, several batches per send; renews the leases of what takes long.

A commit whose reply was lost is sent again: XACK answers 0 for what the first one settled, so nothing is published twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from continual_contract.entries import RequestEntry
from continual_contract.functions import (
    Answered,
    Author,
    CommitKind,
    FunctionCall,
    Section,
    commit_call,
    dead_call,
    parse_commit,
    parse_renew,
    renew_call,
)
from continual_contract.ids import EntryId
from continual_contract.routing import is_sampled

from continual_workers.streaming.duty import Duty
from continual_workers.streaming.outcomes import Refused
from continual_workers.streaming.shared import Shared
from continual_workers.streaming.wire import Wire, has_code, raise_unless_transient
from continual_workers.streaming.work import Batch, Job

log = logging.getLogger(__name__)


class Writer:
    """One thread, one socket, opened again whenever it breaks."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._wire: Wire | None = None
        self._give_up_at: float | None = None

    def run(self) -> None:
        shared = self._shared
        interval = shared.options.lease_interval_seconds
        try:
            while not shared.outbox.is_done:
                batches = shared.outbox.take_all(interval)
                self._renew(shared.leases.due(interval))
                if batches:
                    self._settle(batches)
        finally:
            self._hang_up()

    # Settling -------------------------------------------------------------------------------------------------------------------

    def _settle(self, batches: Sequence[Batch]) -> None:
        """Send until Redis has answered every call; leases end only then."""
        waiting = [(batch, call) for batch in batches for call in self._calls(batch)]
        attempt = 0
        while waiting:
            replies = self._send([call for _, call in waiting])
            unanswered = [
                pair for pair, reply in zip(waiting, replies, strict=True) if not self._is_settled(pair[1], reply)
            ]
            waiting = unanswered
            if waiting:
                attempt += 1
                if self._is_hopeless():
                    log.error("Stopped before Redis took the last answers", extra={"batches": len(waiting)})
                    break
                self._pause(attempt)
        for batch in batches:
            self._shared.leases.end(batch)

    def _pause(self, attempt: int) -> None:
        """A stop does not end this pause: what is finished should be committed."""
        time.sleep(min(self._shared.options.reconnect_seconds, 0.05 * 2 ** min(attempt, 10)))

    def _is_hopeless(self) -> bool:
        """Whether a stopping worker has tried for long enough."""
        if not self._shared.stopping.is_set():
            return False
        if self._give_up_at is None:
            self._give_up_at = time.monotonic() + self._shared.options.drain_seconds
        return time.monotonic() >= self._give_up_at

    def _send(self, calls: Sequence[FunctionCall]) -> list[Any]:
        """Replies; None for each when the connection broke."""
        try:
            if self._wire is None:
                self._wire = Wire(self._shared.connect())
            return self._wire.exchange(*calls)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("Redis does not answer the writer", extra={"error": str(error), "calls": len(calls)})
            self._shared.metrics.count("reconnects")
            self._hang_up()
            return [None] * len(calls)

    def _hang_up(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _is_settled(self, call: FunctionCall, reply: Any) -> bool:
        """False: send it again. FENCED: another version works in the group, which will claim what we leave pending."""
        if reply is None:
            return False
        if has_code(reply, "FENCED"):
            self._shared.metrics.count("fenced")
            return True
        if has_code(reply, "NOTOWNER"):
            return True
        if raise_unless_transient(reply):
            return False
        self._count(call, reply)
        return True

    def _count(self, call: FunctionCall, reply: Any) -> None:
        metrics = self._shared.metrics
        if call.name.endswith("_dead"):
            metrics.count("dead", 1 if reply else 0)
            return
        result = parse_commit(reply)
        metrics.count("acknowledged", result.acknowledged)
        metrics.count("published", result.published)
        metrics.count("lost", result.lost)

    # What a batch says ----------------------------------------------------------------------------------------------------------

    def _calls(self, batch: Batch) -> list[FunctionCall]:
        """One commit, and one call per dead letter."""
        if (plain := self._plain(batch)) is not None:
            return [plain]
        answered: dict[tuple[CommitKind, Duty], list[Answered]] = {}
        acknowledged = list(batch.acknowledged)
        dead = [self._dead(batch, job.request, _too_often(job)) for job in batch.given_up]
        for (request, duty, _), outcome in zip(batch.jobs, batch.outcomes, strict=True):
            if isinstance(outcome, Refused):
                if duty.kind == "own":
                    dead.append(self._dead(batch, request, outcome))
                else:
                    acknowledged.append(request.entry_id)
            elif kind := self._kind(duty, request):
                answer = Answered(request.entry_id, request.request_id, outcome.class_name, outcome.confidence)
                answered.setdefault((kind, duty), []).append(answer)
            else:
                acknowledged.append(request.entry_id)
        if not answered and not acknowledged:
            return dead
        return [self._commit(batch, answered, acknowledged), *dead]

    def _commit(
        self,
        batch: Batch,
        answered: Mapping[tuple[CommitKind, Duty], Sequence[Answered]],
        acknowledged: Sequence[EntryId],
    ) -> FunctionCall:
        shared = self._shared
        sections = [Section(kind, duty.role, duty.why, answers) for (kind, duty), answers in answered.items()]
        author = Author(shared.version, shared.digest_prefix, batch.worker_us)
        ttl = shared.options.answers_ttl_seconds
        return commit_call(shared.keys, batch.group, author, sections, acknowledged, ttl)

    def _plain(self, batch: Batch) -> FunctionCall | None:
        """The commit of the usual batch: every job has the same duty, every answer is kept, nothing was refused."""
        if not batch.jobs or batch.given_up or self._shared.options.sample_percent < 100:
            return None
        duty = batch.jobs[0].duty
        if not all(job.duty is duty for job in batch.jobs) or Refused in map(type, batch.outcomes):
            return None
        answers = [
            Answered(request.entry_id, request.request_id, *outcome)  # type: ignore[misc]  # no Refused is left
            for (request, _, _), outcome in zip(batch.jobs, batch.outcomes, strict=True)
        ]
        return self._commit(batch, {("s" if duty.kind == "shadow" else "o", duty): answers}, batch.acknowledged)

    def _kind(self, duty: Duty, request: RequestEntry) -> CommitKind | None:
        """Outside the sample a prediction is published but not kept, and a shadow answer (None) is of no use to anybody."""
        options = self._shared.options
        sampled = is_sampled(request.request_id, options.salt, options.sample_percent)
        if duty.kind == "shadow":
            return "s" if sampled else None
        return "o" if sampled else "u"

    def _dead(self, batch: Batch, request: RequestEntry, why: Refused) -> FunctionCall:
        shared = self._shared
        ttl = shared.options.answers_ttl_seconds
        log.warning(
            "Gave up on a request", extra={"request": request.request_id, "reason": why.reason, "why": why.message}
        )
        return dead_call(
            shared.keys, batch.group, shared.version, request.entry_id, request.request_id, why.reason, why.message, ttl
        )

    # Leases ---------------------------------------------------------------------------------------------------------------------

    def _renew(self, batches: Sequence[Batch]) -> None:
        """Tell Redis that we still work on these; forget what somebody else has taken over."""
        shared = self._shared
        batches = [batch for batch in batches if batch.leased()]
        if not batches:
            return
        leased = [batch.leased() for batch in batches]
        calls = [
            renew_call(shared.keys, batch.group, shared.version, shared.consumer, ids)
            for batch, ids in zip(batches, leased, strict=True)
        ]
        for batch, ids, reply in zip(batches, leased, self._send(calls), strict=True):
            self._note_renewal(batch, ids, reply)

    def _note_renewal(self, batch: Batch, ids: Sequence[EntryId], reply: Any) -> None:
        if has_code(reply, "FENCED"):
            batch.lost.update(ids)
            return
        if reply is None or raise_unless_transient(reply):
            return
        held = parse_renew(reply)
        batch.lost.update(entry_id for entry_id in ids if entry_id not in held)
        batch.renewed_at = time.monotonic()
        self._shared.metrics.count("renewed", len(held))


def _too_often(job: Job) -> Refused:
    return Refused("TooManyDeliveries", f"delivered {job.deliveries} times without an answer")
