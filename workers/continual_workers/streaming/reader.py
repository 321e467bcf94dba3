"""The reader: takes deliveries, asks the routing table what each is worth, hands out work.

`GET routing` is sent behind every read and every claim in the same write, so the table is never older than an entry it judges.
A table cached before the read loses requests: a group created in between owns entries the old table gave to somebody else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from continual_contract.entries import RequestEntry, decode_request, plain_request
from continual_contract.functions import Claimed, claim_call, parse_claim
from continual_contract.ids import ZERO_ID, EntryId, GroupName, id_key
from continual_contract.routing import Routing, parse_routing

from continual_workers.streaming.duty import batches_per_read, duties_of, served_groups
from continual_workers.streaming.shared import Shared
from continual_workers.streaming.wire import Wire, has_code, named_values, raise_unless_transient, stream_entries
from continual_workers.streaming.work import Batch, Job

log = logging.getLogger(__name__)

Delivery = tuple[RequestEntry, int]
"""A request and how often it has been delivered."""
HEIR_BLOCK_MS = 100
"""How long to wait on the own group while an inherited one is being emptied."""
RECOVERED_DELIVERIES = 1
LARGEST_READ_BYTES = 2 << 20
"""Bound of a read that brings more than one batch."""


class Reader:
    """One thread, one socket."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._routing: Routing | None = None
        self._raw: bytes | None = None
        self._client_id: int | None = None
        self._failures = 0
        self._next_claim = 0.0
        self._largest_seen: EntryId = ZERO_ID
        self._entry_bytes = LARGEST_READ_BYTES  # nothing read yet: one batch

    def run(self) -> None:
        try:
            while not self._shared.stopping.is_set():
                try:
                    self._session()
                except (redis.ConnectionError, redis.TimeoutError) as error:
                    log.warning("Redis does not answer the reader", extra={"error": str(error)})
                    self._shared.metrics.count("reconnects")
                    self._failures += 1
                    self._shared.pause(self._failures)
        finally:
            self._shared.work.close()

    def unblock(self) -> None:
        """End a blocking read from outside; the reader then sees that it should stop."""
        client_id = self._client_id
        if client_id is None:
            return
        try:
            with Wire(self._shared.connect()) as wire:
                wire.exchange(("CLIENT", "UNBLOCK", client_id))
        except (redis.ConnectionError, redis.TimeoutError):
            log.info("Could not unblock the reader: it wakes by itself within a second")

    def _session(self) -> None:
        """Read over one connection until stopped."""
        with Wire(self._shared.connect()) as wire:
            self._client_id = wire.client_id()
            try:
                if self._routing is not None:
                    self._recover(wire)
                while not self._shared.stopping.is_set():
                    self._failures = 0 if self._step(wire) else self._failures + 1
                    if self._failures:
                        self._shared.pause(min(self._failures, 2))
            finally:
                self._client_id = None

    def _step(self, wire: Wire) -> bool:
        """One round; False when there was nothing to ask or Redis was not able: pause, then try again."""
        self._shared.last_contact = time.monotonic()
        if not self._shared.work.wait_for_room(1.0):
            return True
        groups = self._groups()
        if not groups:
            return self._learn(wire.exchange(("GET", self._shared.keys.routing))[0]) and bool(self._groups())
        if time.monotonic() >= self._next_claim:
            return self._claim(wire, groups)
        return self._read(wire, groups)

    # The routing table ----------------------------------------------------------------------------------------------------------

    def _groups(self) -> list[GroupName]:
        return served_groups(self._routing, self._shared.version) if self._routing else []

    def _learn(self, raw: bytes | redis.ResponseError | None) -> bool:
        """Take over the table that came behind a read; False when Redis could not give it."""
        if isinstance(raw, redis.ResponseError):
            return not raise_unless_transient(raw)
        if raw == self._raw:
            return True
        before = set(self._groups())
        self._raw, self._routing = raw, parse_routing(raw) if raw else None
        served = set(self._groups())
        if served != before:
            self._next_claim = 0.0
            log.info(
                "Routing changed", extra={"gen": self._routing.gen if self._routing else 0, "groups": sorted(served)}
            )
        self._shared.groups_seen |= served
        return True

    # Reading --------------------------------------------------------------------------------------------------------------------

    def _read(self, wire: Wire, groups: Sequence[GroupName]) -> bool:
        """Inherited groups without waiting, the own one with BLOCK, the table behind them."""
        reads = [self._read_command(group, block=group == groups[-1], heirs=len(groups) > 1) for group in groups]
        *replies, raw = wire.exchange(*reads, ("GET", self._shared.keys.routing))
        if not self._learn(raw):
            return False
        taken = [self._take(group, reply) for group, reply in zip(groups, replies, strict=True)]
        return all(taken)

    def _read_command(self, group: GroupName, *, block: bool, heirs: bool) -> tuple[str | int, ...]:
        shared = self._shared
        wait_ms = min(HEIR_BLOCK_MS, shared.options.block_ms) if heirs else shared.options.block_ms
        waiting: tuple[str | int, ...] = ("BLOCK", wait_ms) if block else ()
        count = self._count(group)
        return (
            "XREADGROUP",
            "GROUP",
            group,
            shared.consumer,
            "COUNT",
            count,
            *waiting,
            "STREAMS",
            shared.keys.requests,
            ">",
        )

    def _count(self, group: GroupName) -> int:
        """Entries one read may bring: a batch, or as many as hold a batch for this group while they stay small."""
        cap = self._shared.options.batch_size
        assert self._routing is not None
        batches = batches_per_read(self._routing, group)
        return cap if batches == 1 else max(cap, min(cap * batches, LARGEST_READ_BYTES // self._entry_bytes))

    def _take(self, group: GroupName, reply: Any) -> bool:
        """Dispatch what one read brought. NOGROUP: the table that came behind it tells where to go on."""
        if has_code(reply, "NOGROUP"):
            return False
        if raise_unless_transient(reply):
            return False
        deliveries = [(_request(i, f), 1) for i, f in stream_entries(reply) if f is not None]
        if deliveries:
            self._largest_seen = max(self._largest_seen, deliveries[-1][0].entry_id, key=id_key)
            self._entry_bytes = max(1, *(len(request.data) for request, _ in deliveries))
            self._dispatch(group, deliveries)
        return True

    # Taking over ----------------------------------------------------------------------------------------------------------------

    def _claim(self, wire: Wire, groups: Sequence[GroupName]) -> bool:
        """Claim in every group, the table behind it; come back at once while there was something to claim."""
        shared, options = self._shared, self._shared.options
        calls = [
            claim_call(
                shared.keys, group, shared.version, shared.consumer, options.min_idle_ms, options.batch_size, options.isolate_after
            )
            for group in groups
        ]  # fmt: skip
        *replies, raw = wire.exchange(*calls, ("GET", shared.keys.routing))
        if not self._learn(raw):
            return False
        claimed = [self._take_claimed(group, reply) for group, reply in zip(groups, replies, strict=True)]
        pause = options.heir_interval_seconds if len(groups) > 1 else options.claim_interval_seconds
        self._next_claim = 0.0 if any(claimed) else time.monotonic() + min(pause, options.claim_interval_seconds)
        return True

    def _take_claimed(self, group: GroupName, reply: Any) -> bool:
        """Whether anything was claimed. A suspicious entry comes alone, and has the whole process to itself."""
        if has_code(reply, "FENCED") or has_code(reply, "NOGROUP") or raise_unless_transient(reply):
            return False
        taken, gone = parse_claim(reply)
        if gone:
            self._shared.metrics.count("gone", len(gone))
            log.error("Pending requests were deleted", extra={"group": group, "ids": gone[:5], "number": len(gone)})
        held = self._shared.leases.holds(group)
        fresh = [entry for entry in taken if entry.entry_id not in held]
        if fresh:
            self._shared.metrics.count("claimed", len(fresh))
            self._admit(group, fresh)
        return bool(fresh)

    def _admit(self, group: GroupName, claimed: Sequence[Claimed]) -> None:
        deliveries = [(decode_request(entry.entry_id, entry.fields), entry.deliveries) for entry in claimed]
        if all(number < self._shared.options.isolate_after for _, number in deliveries):
            self._dispatch(group, deliveries)
            return
        self._shared.metrics.count("isolated", len(deliveries))
        self._wait_alone()
        self._dispatch(group, deliveries)
        self._wait_alone()

    def _wait_alone(self) -> None:
        while not self._shared.leases.wait_empty(0.2) and not self._shared.stopping.is_set():
            self._shared.last_contact = time.monotonic()  # waiting for ourselves, not for Redis

    # Handing out ----------------------------------------------------------------------------------------------------------------

    def _dispatch(self, group: GroupName, deliveries: Sequence[Delivery]) -> None:
        """Sort deliveries by duty and queue them: owned, then shadow; the acknowledgements ride with the first batch."""
        shared, routing = self._shared, self._routing
        shared.metrics.count("delivered", len(deliveries))
        if routing is None or group not in routing.groups or routing.groups[group].serve != shared.version:
            shared.metrics.count("fenced", len(deliveries))  # stays pending: whoever works here now claims it
            return
        shared.metrics.lag(_age_seconds(deliveries[0][0].entry_id))
        duties = duties_of(routing, group, shared.version, [request for request, _ in deliveries])
        self._queue(group, [Job(request, duty, n) for (request, n), duty in zip(deliveries, duties, strict=True)])

    def _queue(self, group: GroupName, jobs: Sequence[Job]) -> None:
        limit, cap = self._shared.options.max_deliveries, self._shared.options.batch_size
        owned: list[Job] = []
        dark: list[Job] = []
        hopeless: list[Job] = []
        passed: list[EntryId] = []
        unknown = 0
        for job in jobs:
            kind = job.duty.kind
            if kind == "own":
                (owned if job.deliveries <= limit else hopeless).append(job)
            elif kind == "unknown":
                unknown += 1
            elif kind == "shadow" and self._is_worth_it(job):
                dark.append(job)
            else:
                passed.append(job.request.entry_id)
        if unknown:
            self._shared.metrics.count("no_epoch", unknown)
        self._submit(_batches(group, [*_pieces(owned, cap), *_pieces(dark, cap)], passed, hopeless))

    def _is_worth_it(self, job: Job) -> bool:
        """Shadow work that is late, or that has failed before too often, is dropped and counted."""
        options = self._shared.options
        late = _age_seconds(job.request.entry_id) > options.max_lag_seconds
        if late or job.deliveries > options.max_deliveries:
            self._shared.metrics.count("shadow_dropped")
            return False
        return True

    def _submit(self, batches: Iterable[Batch]) -> None:
        """What needs the handler goes to it, what does not straight to the writer."""
        for batch in batches:
            self._shared.leases.begin(batch)
            if batch.jobs:
                self._shared.work.put([batch])
            else:
                self._shared.outbox.put(batch)

    # After a lost connection ----------------------------------------------------------------------------------------------------

    def _recover(self, wire: Wire) -> None:
        """A reply may have been lost with the connection: ask for what is pending under our own name, and look for a lost tail."""
        self._look_for_lost_tail(wire)
        self._learn(wire.exchange(("GET", self._shared.keys.routing))[0])
        for group in self._groups():
            self._recover_group(wire, group)

    def _recover_group(self, wire: Wire, group: GroupName) -> None:
        shared = self._shared
        cursor: EntryId = ZERO_ID
        while not shared.stopping.is_set():
            read = (
                "XREADGROUP",
                "GROUP",
                group,
                shared.consumer,
                "COUNT",
                1000,
                "STREAMS",
                shared.keys.requests,
                cursor,
            )
            reply, raw = wire.exchange(read, ("GET", shared.keys.routing))
            if isinstance(reply, redis.ResponseError) or not self._learn(raw):
                return
            entries = stream_entries(reply)
            if not entries:
                return
            cursor = EntryId(entries[-1][0].decode())
            held = shared.leases.holds(group)
            mine = [
                (_request(i, f), RECOVERED_DELIVERIES) for i, f in entries if f is not None and i.decode() not in held
            ]
            for first in range(0, len(mine), shared.options.batch_size):
                self._dispatch(group, mine[first : first + shared.options.batch_size])

    def _look_for_lost_tail(self, wire: Wire) -> None:
        """A last id below one we have seen: the server came back without its newest entries."""
        reply = wire.exchange(("XINFO", "STREAM", self._shared.keys.requests))[0]
        last = ZERO_ID if isinstance(reply, redis.ResponseError) else _last_id(reply)
        if id_key(last) < id_key(self._largest_seen):
            log.error("Redis lost the newest requests", extra={"seen": self._largest_seen, "last": last})
            wire.exchange(("HINCRBY", self._shared.keys.alarms, "lost_tail", 1))
            self._largest_seen = last


def _request(entry_id: bytes, fields: Sequence[bytes]) -> RequestEntry:
    if len(fields) == 2 and fields[0] == b"d":
        return plain_request(entry_id, fields[1])
    return decode_request(entry_id, dict(zip(fields[::2], fields[1::2], strict=True)))


def _last_id(reply: Any) -> EntryId:
    value: bytes = named_values(reply)[b"last-generated-id"]
    return EntryId(value.decode())


def _age_seconds(entry_id: str) -> float:
    return time.time() - int(entry_id.partition("-")[0]) / 1000


def _pieces(jobs: Sequence[Job], cap: int) -> list[tuple[Job, ...]]:
    return [tuple(jobs[first : first + cap]) for first in range(0, len(jobs), cap)]


def _batches(
    group: GroupName, parts: Sequence[tuple[Job, ...]], passed: Sequence[EntryId], hopeless: Sequence[Job]
) -> list[Batch]:
    """One batch per part, in order; what needs no handler rides with the first of them."""
    first, *others = parts or [()]
    head = Batch(group, first, tuple(passed), tuple(hopeless))
    return [batch for batch in (head, *(Batch(group, jobs) for jobs in others)) if batch.leased()]
