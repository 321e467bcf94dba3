"""What the three threads of one consumer share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import redis
from continual_contract.ids import GroupName
from continual_contract.keys import ModelKeys

from continual_workers.streaming.options import ConsumerOptions
from continual_workers.streaming.outcomes import StreamMetrics
from continual_workers.streaming.work import Leases, Outbox, WorkQueue


class Shared:
    """Identity, options, queues and flags. `consumer` is the name in Redis, `<version>/<name>`."""

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        keys: ModelKeys,
        version: str,
        digest_prefix: str,
        consumer: str,
        options: ConsumerOptions,
        metrics: StreamMetrics,
    ) -> None:
        self.connect, self.keys = connect, keys
        self.version, self.digest_prefix, self.consumer = version, digest_prefix, consumer
        self.options, self.metrics = options, metrics
        self.work = WorkQueue(options.batch_size, options.shadow_batches)
        self.outbox = Outbox()
        self.leases = Leases()
        self.stopping = threading.Event()
        self.groups_seen: frozenset[GroupName] = frozenset()
        self.last_contact = time.monotonic()

    def pause(self, attempt: int) -> None:
        """Wait before trying again: 50 ms, doubling up to `reconnect_seconds`; a stop ends it."""
        self.stopping.wait(min(self.options.reconnect_seconds, 0.05 * 2 ** min(attempt, 10)))
