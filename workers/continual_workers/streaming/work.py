"""What lies between the three threads: batches of work, and the leases on what is in flight.

A *lease* is a delivered entry nobody has settled yet. It is held from the read until the commit's reply, whatever thread has it,
so that long work can be renewed and a reconnecting reader knows what it already has.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from continual_contract.entries import RequestEntry
from continual_contract.ids import EntryId, GroupName

from continual_workers.streaming.duty import Duty
from continual_workers.streaming.outcomes import Outcome


class Job(NamedTuple):
    """One delivered entry and what is owed to it."""

    request: RequestEntry
    duty: Duty
    deliveries: int = 1


@dataclass(eq=False, slots=True)
class Batch:
    """Entries of one group that are handled and settled together."""

    group: GroupName
    jobs: tuple[Job, ...]
    acknowledged: tuple[EntryId, ...] = ()
    """Entries the group does not own: acknowledged with the batch."""
    given_up: tuple[Job, ...] = ()
    """Delivered too often: dead letters."""
    outcomes: Sequence[Outcome] = ()
    worker_us: int = 0
    renewed_at: float = field(default_factory=time.monotonic)
    lost: set[EntryId] = field(default_factory=set)
    """Entries somebody else took over: neither handled nor settled by us."""

    @property
    def is_shadow(self) -> bool:
        return bool(self.jobs) and self.jobs[0].duty.kind == "shadow"

    @property
    def entries(self) -> int:
        """How many deliveries it holds."""
        return len(self.jobs) + len(self.acknowledged) + len(self.given_up)

    def leased(self) -> list[EntryId]:
        ids = [job.request.entry_id for job in (*self.jobs, *self.given_up)]
        return [entry_id for entry_id in (*ids, *self.acknowledged) if entry_id not in self.lost]

    def live_jobs(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.request.entry_id not in self.lost)


class Leases:
    """Batches in flight."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._batches: set[Batch] = set()

    def begin(self, batch: Batch) -> None:
        with self._changed:
            self._batches.add(batch)

    def end(self, batch: Batch) -> None:
        with self._changed:
            self._batches.discard(batch)
            self._changed.notify_all()

    def due(self, older_than_seconds: float) -> list[Batch]:
        """Batches whose lease was last renewed that long ago."""
        limit = time.monotonic() - older_than_seconds
        with self._changed:
            return [batch for batch in self._batches if batch.renewed_at <= limit]

    def holds(self, group: GroupName) -> set[EntryId]:
        with self._changed:
            return {i for batch in self._batches if batch.group == group for i in batch.leased()}

    def wait_empty(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._batches, timeout)


class WorkQueue:
    """Batches for the handler: owned ones always before shadow ones; short, so that a lease does not age in it.

    One owned batch may wait, and a second one behind a full one: a full batch says that there is a backlog, and then the handler must
    not wait for a read. Without a backlog a second one would only take work from a worker that has nothing to do.
    """

    def __init__(self, full: int = 64, shadow_limit: int = 4) -> None:
        self._changed = threading.Condition()
        self._owned: deque[Batch] = deque()
        self._shadow: deque[Batch] = deque()
        self._full, self._shadow_limit = full, shadow_limit
        self._closed = False

    def wait_for_room(self, timeout: float) -> bool:
        """Whether a read may follow: what it brings will not wait long."""
        with self._changed:
            return self._changed.wait_for(self._has_room, timeout)

    def _has_room(self) -> bool:
        waiting = len(self._owned)
        has_backlog = waiting == 1 and self._owned[0].entries >= self._full
        return (waiting == 0 or has_backlog) and len(self._shadow) < self._shadow_limit

    def put(self, batches: Iterable[Batch]) -> None:
        with self._changed:
            for batch in batches:
                (self._shadow if batch.is_shadow else self._owned).append(batch)
            self._changed.notify_all()

    def take(self) -> Batch | None:
        """The next batch; None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._owned or self._shadow or self._closed)
            batch = self._owned.popleft() if self._owned else self._shadow.popleft() if self._shadow else None
            self._changed.notify_all()
            return batch

    def close(self, *, discard: bool = False) -> None:
        """No more batches will come; `discard` throws away those that wait (they stay pending in Redis)."""
        with self._changed:
            self._closed = True
            if discard:
                self._owned.clear()
                self._shadow.clear()
            self._changed.notify_all()


class Outbox:
    """Batches for the writer; bounded, so that the handler cannot run ahead of Redis."""

    def __init__(self, limit: int = 8) -> None:
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._limit = limit
        self._closed = False

    def put(self, batch: Batch) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._batches) < self._limit or self._closed)
            self._batches.append(batch)
            self._changed.notify_all()

    def take_all(self, timeout: float) -> list[Batch]:
        """Everything that waits; empty after `timeout` seconds without any."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed, timeout)
            batches = list(self._batches)
            self._batches.clear()
            self._changed.notify_all()
            return batches

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_done(self) -> bool:
        with self._changed:
            return self._closed and not self._batches
