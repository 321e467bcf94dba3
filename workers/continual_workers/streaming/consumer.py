"""The worker's side of the stream: read, decide, answer, settle; and give everything back in order.

Three threads over synchronous sockets, because ONNX Runtime and sockets release the interpreter lock:

    reader  XREADGROUP, claims, GET routing behind each of them; decides every entry's duty
    infer   calls the handler with owned batches first, shadow batches when nothing else waits
    writer  one fenced function call per batch; renews the leases of what takes long

Nothing here is retried blindly. A read that failed leaves its entries pending under our name: the reader asks for them after it has
reconnected. A commit that failed is sent again: its fences make a second one harmless. Whatever a dead process leaves is claimed by
another one, and whatever a dead version leaves, by its heir.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import redis
from continual_contract.functions import forget_call
from continual_contract.keys import ModelKeys

from continual_workers.streaming.options import ConsumerOptions
from continual_workers.streaming.outcomes import Counters, Handler, StreamMetrics
from continual_workers.streaming.reader import Reader
from continual_workers.streaming.shared import Shared
from continual_workers.streaming.wire import Wire
from continual_workers.streaming.work import Batch
from continual_workers.streaming.writer import Writer

log = logging.getLogger(__name__)


class Consumer:
    """Works for one version of one model until it is told to stop.

    `connect` must return a new client each time, with redis-py's own retries off and a socket timeout above `options.block_ms`;
    it is closed here.
    `consumer_name` is unique per process start; in Redis it becomes `<version>/<consumer_name>`.
    """

    def __init__(
        self,
        connect: Callable[[], redis.Redis],
        keys: ModelKeys,
        version: str,
        digest_prefix: str,
        consumer_name: str,
        options: ConsumerOptions,
        handler: Handler,
        metrics: StreamMetrics | None = None,
    ) -> None:
        self._shared = Shared(
            connect, keys, version, digest_prefix, f"{version}/{consumer_name}", options, metrics or Counters()
        )
        self._handler = handler
        self._reader = Reader(self._shared)
        self._writer = Writer(self._shared)

    def seconds_since_contact(self) -> float:
        """Time since Redis last answered the reader; above a few seconds the worker is not ready."""
        return time.monotonic() - self._shared.last_contact

    @property
    def is_routed(self) -> bool:
        """Whether the routing table names a group this version works in."""
        return bool(self._shared.groups_seen)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then stop reading, finish, commit, leave. Raises what a thread raised."""
        with ThreadPoolExecutor(3, thread_name_prefix="stream") as pool:
            threads: list[Future[None]] = [pool.submit(f) for f in (self._reader.run, self._infer, self._writer.run)]
            try:
                while not stop.is_set() and not wait(threads, 0, FIRST_COMPLETED).done:
                    stop.wait(0.1)
            finally:
                self._stop(failed=any(thread.done() for thread in threads))
            for thread in threads:
                thread.result()
        self._leave()

    def _stop(self, *, failed: bool) -> None:
        """Wake everybody. After a failure nothing is finished: what is in flight stays pending, and is claimed by others."""
        shared = self._shared
        shared.stopping.set()
        if failed:
            shared.work.close(discard=True)
            shared.outbox.close()
        self._reader.unblock()

    def _infer(self) -> None:
        shared = self._shared
        while (batch := shared.work.take()) is not None:
            self._handle(batch)
            shared.outbox.put(batch)
        shared.outbox.close()

    def _handle(self, batch: Batch) -> None:
        """Call the handler with what is still ours; entries taken over meanwhile are left out."""
        jobs = batch.live_jobs()
        batch.jobs = jobs
        if not jobs:
            return
        started = time.perf_counter()
        batch.outcomes = self._handler([job.request for job in jobs])
        seconds = time.perf_counter() - started
        batch.worker_us = round(seconds / len(jobs) * 1e6)
        self._shared.metrics.batch(jobs[0].duty.role, len(jobs), seconds)

    def _leave(self) -> None:
        """Take our name out of every group in which nothing is pending under it."""
        shared = self._shared
        try:
            with Wire(shared.connect()) as wire:
                wire.exchange(*(forget_call(shared.keys, group, shared.consumer) for group in shared.groups_seen))
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("Left without saying goodbye", extra={"consumer": shared.consumer, "error": str(error)})
