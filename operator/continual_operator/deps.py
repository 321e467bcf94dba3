"""What a reconcile reaches out to, handed in from outside: cluster, Redis, object store, clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import redis.asyncio
from continual_clients.objectstore import ObjectStore
from continual_clients.registry import Registry
from continual_contract.artifacts import CheckpointManifest, StoreLayout

from continual_operator.cluster import Cluster, ModelRef
from continual_operator.metrics import OperatorMetrics
from continual_operator.settings import OperatorSettings

MAX_CACHED_MANIFESTS = 500


def utc_now() -> datetime:
    return datetime.now(UTC)


NOT_LOOKED_YET = "the installed CRD could not be read yet"


@dataclass(slots=True)
class Memory:
    """What only saves work. Losing it costs a write or a read, never a decision."""

    written: datetime | None = None
    """When the status was last written."""
    collected: datetime | None = None
    """When garbage was last collected."""
    labels: int = -1
    """Labels received at the last look: they move while people label."""


@dataclass(slots=True)
class Deps:
    """`redis` is asynchronous; `store` is called in threads."""

    cluster: Cluster
    redis: redis.asyncio.Redis
    store: ObjectStore
    settings: OperatorSettings
    now: Callable[[], datetime] = utc_now
    memories: dict[ModelRef, Memory] = field(default_factory=dict)
    manifests: dict[str, CheckpointManifest] = field(default_factory=dict)
    """Verified manifests by digest: immutable, so read once."""
    functions_checked: datetime | None = None
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    store_checked: datetime | None = None
    store_problem: str = ""
    """What the last look at the store said; empty: it answers."""
    store_probe: asyncio.Task[None] | None = None
    """One look at a time for all models: a store that hangs must not hold a thread of each."""
    refusal: str = ""
    """Why no model may be touched now; empty: go on."""

    def memory(self, ref: ModelRef) -> Memory:
        return self.memories.setdefault(ref, Memory())

    def registry(self, ref: ModelRef) -> Registry:
        return Registry(self.store, StoreLayout(ref.namespace, ref.name))

    def remember(self, digest: str, manifest: CheckpointManifest) -> None:
        if len(self.manifests) >= MAX_CACHED_MANIFESTS:
            self.manifests.clear()
        self.manifests[digest] = manifest


FUNCTIONS_INTERVAL = timedelta(seconds=10)
STORE_INTERVAL = timedelta(seconds=10)
