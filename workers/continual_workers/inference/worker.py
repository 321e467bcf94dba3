"""One inference process: load, verify, warm up, say ready, consume until told to stop.

Ready means "would answer now": the model is verified, loaded and warm, and Redis answers. It does not wait for a consumer group, because the
operator routes only to versions that are ready. SIGTERM stops reading; what was read is finished and committed.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from continual_clients import redis as redis_client
from continual_clients.environment import WorkerEnvironment
from continual_clients.health import HealthServer
from continual_clients.objectstore import open_store
from continual_clients.registry import Registry
from continual_contract import settings
from continual_contract.artifacts import StoreLayout
from continual_contract.errors import ContinualError, UsageError
from prometheus_client import CollectorRegistry

from continual_workers.inference.engine import Engine, load_engine
from continual_workers.inference.metrics import WorkerMetrics
from continual_workers.streaming.consumer import Consumer
from continual_workers.streaming.options import ConsumerOptions

log = logging.getLogger(__name__)

DIGEST_PREFIX_LENGTH = 12
DEFAULT_TERMINATION_LOG = "/dev/termination-log"
MAX_TERMINATION_BYTES = 4096
LOST_CONTACT_SECONDS = 15.0


@dataclass(slots=True)
class Readiness:
    """Warm, not leaving, and in touch with Redis since it began."""

    stop: threading.Event
    consumer: Consumer | None = None
    since: float = 0.0

    def begin(self, consumer: Consumer) -> None:
        self.since = time.monotonic()
        self.consumer = consumer

    def __call__(self) -> bool:
        if self.consumer is None or self.stop.is_set():
            return False
        return self.consumer.seconds_since_contact() < min(LOST_CONTACT_SECONDS, time.monotonic() - self.since)


def serve(env: WorkerEnvironment, stop: threading.Event) -> None:
    """Serve one version until `stop`; every failure to load is a typed error before the process was ever ready."""
    readiness = Readiness(stop)
    registry = CollectorRegistry()
    with HealthServer(env.health_address, readiness, registry):
        engine, batch_size = prepare(env)
        consumer = build_consumer(
            env, engine, batch_size, WorkerMetrics(registry, f"{env.namespace}/{env.model}", env.version)
        )
        gc.collect()
        gc.freeze()
        readiness.begin(consumer)
        log.info("consuming", extra={"version": env.version, "checkpoint": env.checkpoint})
        consumer.run(stop)
    log.info("stopped", extra={"version": env.version})


def prepare(env: WorkerEnvironment) -> tuple[Engine, int]:
    """The version's model, verified and warm, and how many images at once pay (at most what the resource allows)."""
    for name, value in ((settings.VERSION, env.version), (settings.CHECKPOINT, env.checkpoint)):
        if not value:
            raise UsageError("is not set", field=name, remedy="the operator sets it; by hand: `v1` and `sha256:…`")
    started = time.monotonic()
    store = open_store(env.store_url, env.store_credentials_file)
    engine = load_engine(Registry(store, StoreLayout(env.namespace, env.model)), env.checkpoint, env.device)
    batch_size = engine.warm_up(env.batch_size)
    seconds = round(time.monotonic() - started, 3)
    log.info("model loaded", extra={"checkpoint": env.checkpoint, "seconds": seconds, "batch_size": batch_size})
    return engine, batch_size


def build_consumer(env: WorkerEnvironment, engine: Engine, batch_size: int, metrics: WorkerMetrics) -> Consumer:
    return Consumer(
        connect=lambda: redis_client.connect(env),
        keys=env.keys,
        version=env.version,
        digest_prefix=env.checkpoint.removeprefix("sha256:")[:DIGEST_PREFIX_LENGTH],
        consumer_name=f"{env.pod}-{secrets.token_hex(3)}",
        options=ConsumerOptions(
            batch_size=batch_size,
            salt=env.salt,
            sample_percent=env.sample_percent,
            answers_ttl_seconds=env.answers_ttl_seconds,
            max_lag_seconds=env.max_lag_seconds,
            min_idle_ms=round(env.min_idle_seconds * 1000),
        ),
        handler=engine.answer,
        metrics=metrics,
    )


def report_failure(error: ContinualError, env: Mapping[str, str]) -> None:
    """Say once why this process gives up: in the log, and where the kubelet (or `continual local`) reads it."""
    log.error("giving up", extra={"reason": error.reason, "problem": str(error), "exit_code": error.exit_code})
    line = f"{error.reason}: {error}".encode()[:MAX_TERMINATION_BYTES]
    path = env.get(settings.TERMINATION_LOG)
    try:
        if path:
            with open(path, "wb") as file:  # noqa: PTH123 -- a device in a pod, a file on a laptop
                file.write(line)
        elif os.path.exists(DEFAULT_TERMINATION_LOG):  # noqa: PTH110 -- never created: only a kubelet provides it
            with open(DEFAULT_TERMINATION_LOG, "wb") as file:  # noqa: PTH123 -- as above
                file.write(line)
    except OSError as problem:
        log.warning("termination log not written", extra={"problem": str(problem)})
