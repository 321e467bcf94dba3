"""What a worker counts, for Prometheus: per batch, with the labels `model`, `version` and `role` and no others.

A pod of several processes shares one folder of counters (prometheus_client's multiprocess mode, chosen by the supervisor
before a child imports the library), and its supervisor serves their sum.
"""

from __future__ import annotations

from typing import get_args

from continual_contract.entries import Role
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from continual_workers.streaming.outcomes import CounterName

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_HELP: dict[CounterName, str] = {
    "delivered": "Entries read from the requests stream",
    "acknowledged": "Entries acknowledged because another group owns them",
    "published": "Predictions published",
    "lost": "Answers settled by another worker meanwhile",
    "fenced": "Entries left alone because another version works in the group",
    "claimed": "Entries taken over from a silent worker",
    "renewed": "Leases renewed for long work",
    "isolated": "Entries processed alone after repeated deliveries",
    "dead": "Requests dead-lettered",
    "shadow_dropped": "Shadow work dropped above the lag limit",
    "no_epoch": "Entries older than the routing table, left pending",
    "gone": "Pending entries whose request was deleted",
    "reconnects": "Reconnections to Redis",
}


class WorkerMetrics:
    """`StreamMetrics` on a Prometheus registry."""

    def __init__(self, registry: CollectorRegistry, model: str, version: str) -> None:
        plain, by_role = ("model", "version"), ("model", "version", "role")
        self._counters = {
            name: Counter(f"continual_{name}", _HELP[name], plain, registry=registry).labels(model, version)
            for name in get_args(CounterName)
        }
        images = Counter("continual_images", "Images answered or refused", by_role, registry=registry)
        sizes = Histogram(
            "continual_batch_images", "Images per batch", by_role, buckets=BATCH_BUCKETS, registry=registry
        )
        seconds = Histogram(
            "continual_batch_seconds", "Seconds per batch", by_role, buckets=SECONDS_BUCKETS, registry=registry
        )
        self._roles = {
            role: (
                images.labels(model, version, role),
                sizes.labels(model, version, role),
                seconds.labels(model, version, role),
            )
            for role in get_args(Role)
        }
        lag = Gauge(
            "continual_lag_seconds",
            "Age of the oldest entry of the newest batch",
            plain,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._lag = lag.labels(model, version)

    def count(self, name: CounterName, amount: int = 1) -> None:
        self._counters[name].inc(amount)

    def batch(self, role: Role, images: int, seconds: float) -> None:
        total, sizes, durations = self._roles[role]
        total.inc(images)
        sizes.observe(images)
        durations.observe(seconds)

    def lag(self, seconds: float) -> None:
        self._lag.set(seconds)
