"""Everything the gateway's handlers use, handed in: no handler opens a connection or reads a clock by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis.asyncio
from continual_clients.objectstore import ObjectStore

from continual_gateway.resources import Resources
from continual_gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class GatewayDeps:
    """`redis`: bytes out, no retries (`continual_clients.redis.connect_async`)."""

    resources: Resources
    redis: redis.asyncio.Redis
    store: ObjectStore
    settings: GatewaySettings
    clock: Callable[[], float] = field(default=time.time)
    """Seconds since 1970."""
