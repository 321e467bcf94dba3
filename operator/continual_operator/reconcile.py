"""The controller's body, and a table of contents: observe, decide, apply, say when to look again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from continual_operator.cluster import Cluster, ModelRef
from continual_operator.settings import OperatorSettings

if TYPE_CHECKING:
    import redis.asyncio
    from continual_clients.objectstore import ObjectStore


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Deps:
    """What a reconcile reaches out to. `redis` is asynchronous, `store` is called in threads."""

    cluster: Cluster
    redis: redis.asyncio.Redis
    store: ObjectStore
    settings: OperatorSettings
    now: Callable[[], datetime] = utc_now
    memory: dict[ModelRef, Any] = field(default_factory=dict)
    """What only saves work: when a status was last written. Losing it costs a write."""


async def reconcile(ref: ModelRef, deps: Deps) -> timedelta | None:
    """One look at one model; returns when to look again, None when the model is gone."""
    raise NotImplementedError
